"""Fine-tuning of a ViT-L/16 on ImageNet-1k, with mean pooling.

Command:     rmae-d2 train --config-file configs/imagenet/finetune_vitl.py --num-gpus 8
             train.init_checkpoint=WEIGHTS
Batch, GPUs: as finetune_vitb.py, base rate 1e-3 per 256 images.
Schedule:    50 epochs = 62,557 updates * 1024 images / 1,281,167 images; warm-up 5 epochs.
Published:   MAE table 3 | fine-tuning, ViT-L | 85.9 top-1 (published); seeds of the released code 85.87, std
               0.07
Differs:     drop path 0.2 is from the released command; the paper's table 9 has 0.1.
Measured:    not run here: ImageNet was not available.
"""

from .finetune_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/finetune_vitl"
train.init_checkpoint = "output/rmae_vitl/model_final.pth"
train.max_iter = 62_557
lr_multiplier.warmup_length = 5 / 50
lr_multiplier.scheduler.end_value = 1e-6 / 4e-3

model.backbone.net.embed_dim = 1024
model.backbone.net.depth = 24
model.backbone.net.num_heads = 16
model.backbone.net.drop_path_rate = 0.2

optimizer.base_lr = 1e-3
optimizer.params.lr_decay_rate = 0.75
