"""R-MAE ViT-H/14 on COCO train2017: 256 patches of 14 pixels.

Command:     rmae-d2 train --config-file configs/pretrain/rmae_vith.py --num-gpus 8
Batch, GPUs: 4096 images per step; add train.grad_accum=N if a GPU cannot hold its share, and
             train.activation_checkpointing=true and train.parallel=fsdp if memory is still short.
Published:   nothing; the paper's largest model is ViT-L, but the published code names this size.
Measured:    not run.
"""

from .rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/rmae_vith"
model.backbone.net.patch_size = 14
model.backbone.net.embed_dim = 1280
model.backbone.net.depth = 32
model.backbone.net.num_heads = 16
