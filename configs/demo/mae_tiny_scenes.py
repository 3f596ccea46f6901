"""A small MAE on the rendered scenes: rmae_tiny_scenes.py without the region branch, for comparison.

Command:     rmae-d2 train --config-file configs/demo/mae_tiny_scenes.py
Batch:       as rmae_tiny_scenes.py.
"""

from .rmae_tiny_scenes import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/demo/mae_tiny_scenes"
model.region_branch = None
dataloader.train.mapper.regions = None
