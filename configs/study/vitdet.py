"""Mask R-CNN (ViTDet) of the study, with few labels or all: dataloader.train.dataset.fraction=0.01 or 1.

Command:     as rmae.py; on its own with train.init_checkpoint=output/study/rmae/model_final.pth
Batch:       8 images of 192 pixels per step, 300 steps; with all labels 600.
Patches:     of 16 pixels, because strides must be powers of two here: the patch embedding for 12 is resized
             when the weights are loaded.
Measured:    docs/study.md.
"""

from ..demo.vitdet_tiny_scenes import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/study/vitdet"
train.init_checkpoint = ""
train.max_iter = 300
train.checkpointer.period = 300
train.eval_period = 300
train.log_period = 50

model.backbone.net.img_size = 192
model.backbone.net.pretrain_img_size = 128
model.backbone.out_channels = 64

dataloader.train.total_batch_size = 8
dataloader.train.num_workers = 1
dataloader.test.num_workers = 0
