"""MAE ViT-B/16 on ImageNet-1k, 1600 epochs: the counterpart of rmae_vitb_imagenet_1600ep.py.

Command:     rmae-d2 train --num-gpus 8
             --config-file configs/pretrain/mae_vitb_imagenet_1600ep.py
Batch, GPUs: as rmae_vitb.py.
Published:   R-MAE table 5 | ImageNet, 1600 epochs, MAE | 51.6 / 45.9 (published, ViTDet table 5); 48.1 mIoU
               (published, MAE table 5)
Measured:    not run.
"""

from .rmae_vitb_imagenet_1600ep import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/mae_vitb_imagenet_1600ep"
model.region_branch = None
dataloader.train.mapper.regions = None
