"""ViTDet-B, Mask R-CNN on COCO, 12 epochs at 768 pixels: for one 24 GB card, and for own data.

Command:     rmae-d2 train --config-file configs/coco/mask_rcnn_vitdet_b_1x_small.py
             train.init_checkpoint=PRETRAINED; the default is what configs/pretrain/rmae_vitb.py leaves. Own
             data in COCO's format, whose number of classes the model follows:
             dataloader.train.dataset.json=train.json dataloader.train.dataset.root=IMAGES
             dataloader.test.dataset.json=val.json dataloader.test.dataset.root=IMAGES train.max_iter=N
Batch, GPUs: 16 images per step, as 8 micro-batches of 2 whose activations are computed again. Where memory is
             left, train.grad_accum=4; where it is short, model.backbone.net.img_size=512. The rate for other
             batches: 1e-4 * sqrt(images / 64), a rule of thumb for AdamW.
Schedule:    12 epochs = 88,500 steps * 16 images / 118,000 images; rate / 10 at 8/9 and 26/27 of
             train.max_iter. Own data of N images: train.max_iter = 12 * N / 16, and at least a few thousand.
Published:   nothing. For comparison: 100 epochs at 1024 pixels have 51.6 / 45.9 box / mask AP.
Measured:    not run here; neither its memory nor its time is known. (Published for one image of 1024 pixels
             in fp16, without computing activations again: 10.9 GB.)
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
