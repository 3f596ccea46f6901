"""MAE of the study: rmae.py without the region branch.

Command:     as rmae.py.
Batch:       as rmae.py.
Measured:    docs/study.md.
"""

from .rmae import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/study/mae"
model.region_branch = None
dataloader.train.mapper.regions = None
dataloader.test.also = []
