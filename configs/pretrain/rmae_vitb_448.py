"""R-MAE ViT-B/16 at 448 pixels on COCO train2017: 784 patches, 196 of them visible.

Command:     rmae-d2 train --config-file configs/pretrain/rmae_vitb_448.py --num-gpus 8
             train.init_checkpoint=output/rmae_vitb/model_final.pth
Batch, GPUs: 4096 images per step. An image keeps 226 MiB of activations in fp32 (docs/ablations.md), 512 of
             them on each of 8 GPUs 113 GiB: train.grad_accum=4, or train.activation_checkpointing=true.
Schedule:    400 epochs = 11,552 updates, starting from weights trained at 224 pixels: position tables are
             resized to the grid. Without such weights: train.max_iter=115515.
Published:   nothing; the closest is Long-Seq MAE, 448 pixels, with 2x2 patches masked together and another
             decoder.
Measured:    not run.
"""

from detectron2.config import LazyCall as L

from rmae_d2.modeling import WindowMasking

from .rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/rmae_vitb_448"
train.max_iter = 11_552
model.backbone.net.img_size = 448
# ViTDet's blocks; windows that divide the grid of 28 x 28 patches.
model.backbone.net.window_size = 14
model.backbone.net.window_block_indexes = [0, 1, 3, 4, 6, 7, 9, 10]
model.masking = L(WindowMasking)(window_size="${model.backbone.net.window_size}")
# A quarter of the hidden patches is predicted in each step.
model.decode_ratio = 0.25
model.pixel_decoder.hidden_attention = False
