"""MAE ViT-B/16 on COCO train2017: the baseline, the same recipe without the region branch.

Command:     rmae-d2 train --config-file configs/pretrain/mae_vitb.py --num-gpus 8
Batch, GPUs: as rmae_vitb.py.
Published:   R-MAE table 1c | MAE | 50.1 / 44.6, 9.7b FLOPs (second-hand ×2)
Measured:    not run.
"""

from .rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/mae_vitb"
model.region_branch = None
dataloader.train.mapper.regions = None
