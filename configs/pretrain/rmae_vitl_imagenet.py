"""R-MAE ViT-L/16 on ImageNet-1k, 1600 epochs.

Command:     rmae-d2 train --config-file configs/pretrain/rmae_vitl_imagenet.py --num-gpus 8
Batch, GPUs: as rmae_vitl.py.
Schedule:    as rmae_vitb_imagenet_1600ep.py; the length of the paper's ViT-L training is not stated.
Published:   R-MAE table 2 | ViT-L, R-MAE | 55.8 box AP (second-hand), +0.5 % FLOPs (second-hand)
Note:        the pre-training images are not stated; MAE's 55.6 is ViTDet's number from ImageNet (ViTDet table
             5).
Measured:    not run.
"""

from .rmae_vitb_imagenet_1600ep import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/rmae_vitl_imagenet"
model.backbone.net.embed_dim = 1024
model.backbone.net.depth = 24
model.backbone.net.num_heads = 16
