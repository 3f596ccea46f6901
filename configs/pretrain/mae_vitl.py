"""MAE ViT-L/16 on COCO train2017: the counterpart of rmae_vitl.py.

Command:     rmae-d2 train --config-file configs/pretrain/mae_vitl.py --num-gpus 8
Batch, GPUs: as rmae_vitl.py.
Published:   nothing stated; see rmae_vitl.py.
Measured:    not run.
"""

from .rmae_vitl import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/mae_vitl"
model.region_branch = None
dataloader.train.mapper.regions = None
