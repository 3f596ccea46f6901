"""R-MAE ViT-B/16 at 448 pixels on COCO train2017: 784 patches, 196 of them visible.

Command:     rmae-d2 train --config-file configs/pretrain/rmae_vitb_448.py --num-gpus 8
             train.init_checkpoint=output/rmae_vitb/model_final.pth
Batch, GPUs: 4096 images per step. An image keeps 359 MiB of activations in fp32 (docs/ablations.md), 512 of
             them on each of 8 GPUs 180 GiB: train.grad_accum=8, or train.activation_checkpointing=true.
Schedule:    400 epochs = 11,552 updates, starting from weights trained at 224 pixels: position tables are
             resized to the grid. Without such weights: train.max_iter=115515.
Published:   nothing; the closest is Long-Seq MAE, 448 pixels, with 2x2 patches masked together and another
             decoder.
Measured:    not run.
"""

from .rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/rmae_vitb_448"
train.max_iter = 11_552
model.backbone.net.img_size = 448
