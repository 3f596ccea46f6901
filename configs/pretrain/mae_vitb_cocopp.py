"""MAE ViT-B/16 on COCO++: the counterpart of rmae_vitb_cocopp.py.

Command:     rmae-d2 train --config-file configs/pretrain/mae_vitb_cocopp.py --num-gpus 8
Batch, GPUs: as rmae_vitb.py.
Published:   R-MAE table 3 | COCO++, MAE | 51.5 box AP (second-hand)
Measured:    not run.
"""

from .rmae_vitb_cocopp import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/mae_vitb_cocopp"
model.region_branch = None
dataloader.train.mapper.regions = None
