"""R-MAE ViT-L/16 on COCO train2017.

Command:     rmae-d2 train --config-file configs/pretrain/rmae_vitl.py --num-gpus 8
Batch, GPUs: 4096 images per step; add train.grad_accum=N if a GPU cannot hold its share.
Published:   R-MAE table 2 | ViT-L, if of COCO pre-training | 55.8, MAE 55.6 box AP (second-hand)
Note:        the pre-training images are not stated; MAE's 55.6 is ViTDet's number from ImageNet, so more
             likely rmae_vitl_imagenet.py.
Measured:    not run.
"""

from .rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/rmae_vitl"
model.backbone.net.embed_dim = 1024
model.backbone.net.depth = 24
model.backbone.net.num_heads = 16
