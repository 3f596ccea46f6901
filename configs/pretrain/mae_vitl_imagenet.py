"""MAE ViT-L/16 on ImageNet-1k, 1600 epochs: the counterpart of rmae_vitl_imagenet.py.

Command:     rmae-d2 train --config-file configs/pretrain/mae_vitl_imagenet.py --num-gpus 8
Batch, GPUs: as rmae_vitl.py.
Published:   R-MAE table 2 | ViT-L, MAE | 55.6 / 49.2 (published, ViTDet table 5)
Measured:    not run.
"""

from .rmae_vitl_imagenet import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/mae_vitl_imagenet"
model.region_branch = None
dataloader.train.mapper.regions = None
