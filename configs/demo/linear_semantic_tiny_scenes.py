"""Linear probe of patches on the scenes' 12 objects and 5 backgrounds.

Command:     rmae-d2 train --config-file configs/demo/linear_semantic_tiny_scenes.py
             train.init_checkpoint=output/demo/rmae_tiny_scenes/model_final.pth is the default; for random
             weights: train.init_checkpoint= train.output_dir=output/demo/linear_semantic_scratch
Batch:       16 images per step, 300 steps = 5.3 epochs of 900 images.
Measured:    mIoU on 1000 scenes: 22.2 ± 0.6 after 1200 steps of the demo's MAE (three seeds), 19.2 with
             random weights (docs/automae.md). 1.5 minutes of a CPU core each.
"""

from ..ade20k.linear_vitb import model, optimizer
from .semantic_tiny_scenes import dataloader, lr_multiplier, train

train.output_dir = "output/demo/linear_semantic_tiny_scenes"
train.eval_period = 300

model.window = 160
model.backbone.net.embed_dim = 192
model.backbone.net.depth = 6
model.backbone.net.num_heads = 3
model.sem_seg_head.num_classes = 17
model.sem_seg_head.norm = "BN"
model.stride = 80

optimizer.lr = 1e-2

dataloader.train.mapper.augmentations[0].short_edge_length = (128, 240)
dataloader.train.total_batch_size = 16
