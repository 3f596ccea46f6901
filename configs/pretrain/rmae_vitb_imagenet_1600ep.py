"""R-MAE ViT-B/16 on ImageNet-1k, 1600 epochs.

Command:     rmae-d2 train --num-gpus 8
             --config-file configs/pretrain/rmae_vitb_imagenet_1600ep.py
Batch, GPUs: as rmae_vitb.py.
Schedule:    1600 epochs = 500,456 updates * 4096 images / 1,281,167 images; warm-up 40 epochs (MAE).
Regions:     as rmae_vitb_imagenet.py.
Published:   R-MAE table 5 | ImageNet, 1600 epochs, R-MAE | 52.3 / 46.4 (second-hand); 47.5 mIoU (from memory)
Measured:    not run.
"""

from .rmae_vitb_imagenet import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/rmae_vitb_imagenet_1600ep"
train.max_iter = 500_456
lr_multiplier.warmup_length = 40 / 1600
