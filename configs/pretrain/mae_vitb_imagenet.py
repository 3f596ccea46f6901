"""MAE ViT-B/16 on ImageNet-1k, 800 epochs: the counterpart of rmae_vitb_imagenet.py.

Command:     rmae-d2 train --config-file configs/pretrain/mae_vitb_imagenet.py --num-gpus 8
Batch, GPUs: as rmae_vitb.py.
Published:   R-MAE table 5 | ImageNet, 800 epochs, MAE | not found
Measured:    not run.
"""

from .rmae_vitb_imagenet import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/mae_vitb_imagenet"
model.region_branch = None
dataloader.train.mapper.regions = None
