"""Linear probe of the demo's encoder on the scenes' single objects, 12 classes, for a CPU.

Command:     rmae-d2 scenes --output datasets/scenes --crops datasets/scenes_crops
             rmae-d2 train --config-file configs/demo/linear_tiny_scenes.py
             train.init_checkpoint=output/demo/rmae_tiny_scenes/model_final.pth is the default; for random
             weights: train.init_checkpoint= train.output_dir=output/demo/linear_scratch
Batch:       128 images per step, 100 steps = 5 epochs of 2,513 crops.
Differs:     mean pooling; a rate for small batches (see imagenet/linear_vitb.py).
Measured:    top-1 of 253 validation crops (standard error 2.7): 25.3 R-MAE, 24.9 MAE, 24.9 random weights
             after 560 steps of demo pre-training: no difference. So few steps of LARS are far from
             convergence; logistic regression on the same features gives 44.7, 45.5, 45.1. A minute of a CPU
             core each.
"""

import os

from ..imagenet.linear_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/demo/linear_tiny_scenes"
train.init_checkpoint = "output/demo/rmae_tiny_scenes/model_final.pth"
train.max_iter = 100
train.precision = "fp32"
train.log_period = 10
train.eval_period = 50
train.checkpointer.period = 100

model.num_classes = 12
# No loss of so short a pre-training reaches the cls token's own output.
model.pool = "mean"
# Objects are about as large in pixels as they were in pre-training.
model.backbone.net.img_size = 96
model.backbone.net.embed_dim = 192
model.backbone.net.depth = 6
model.backbone.net.num_heads = 3

optimizer.base_lr = 12.5

dataloader.train.dataset.root = os.path.join(
    os.getenv("DETECTRON2_DATASETS", "datasets"), "scenes_crops"
)
dataloader.train.mapper.augmentations[0].scale = (0.35, 1.0)
dataloader.train.total_batch_size = 128
dataloader.train.num_workers = 2
# Crops have no margin to cut.
dataloader.test.mapper.augmentations[0].crop_share = 1.0
dataloader.test.num_workers = 2
