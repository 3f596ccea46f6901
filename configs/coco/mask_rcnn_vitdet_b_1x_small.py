"""ViTDet-B, Mask R-CNN on COCO, 12 epochs at 768 pixels: for one 24 GB card, or for your own data.

Command:     rmae-d2 train --config-file configs/coco/mask_rcnn_vitdet_b_1x_small.py
             train.init_checkpoint=PRETRAINED; default: the result of configs/pretrain/rmae_vitb.py.
             Own data in COCO's format (the number of classes is taken from it):
             dataloader.train.dataset.json=train.json dataloader.train.dataset.root=IMAGES
             dataloader.test.dataset.json=val.json dataloader.test.dataset.root=IMAGES train.max_iter=N
Batch, GPUs: 16 images per step, as 8 micro-batches of 2 with activation checkpointing. With memory to spare,
             train.grad_accum=4; if it is short, model.backbone.net.img_size=512. Learning rate for other
             batch sizes: 1e-4 * sqrt(images / 64), a rule of thumb for AdamW.
Schedule:    12 epochs = 88,500 steps * 16 images / 118,000 images; rate / 10 at 8/9 and 26/27 of
             train.max_iter. Own data of N images: train.max_iter = 12 * N / 16, and at least a few thousand.
Published:   nothing. For comparison: 100 epochs at 1024 pixels reach 51.6 / 45.9 box / mask AP.
Measured:    not run here; no time or memory known. (Published for one image of 1024 pixels in fp16, without
             activation checkpointing: 10.9 GB.)
"""

from .mask_rcnn_vitdet_b_100ep import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/coco/mask_rcnn_vitdet_b_1x_small"
train.max_iter = 88_500
train.precision = "bf16"
train.ddp.fp16_compression = False
train.grad_accum = 8
train.activation_checkpointing = True
# 250 steps of this run; the published share of it would be 120.
lr_multiplier.warmup_length = 250 / 88_500
model.backbone.net.img_size = 768
optimizer.lr = 5e-5
dataloader.train.total_batch_size = 16
