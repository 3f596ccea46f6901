"""Linear probe of a ViT-L/16 on ImageNet-1k.

Command:     rmae-d2 train --config-file configs/imagenet/linear_vitl.py --num-gpus 8
             train.init_checkpoint=WEIGHTS
Batch, GPUs: as linear_vitb.py.
Published:   MAE table 12 | linear probe, ViT-L | 75.8 top-1 (published); 76.0 from the released weights and
               code
Measured:    not run here: ImageNet was not available.
"""

from .linear_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/linear_vitl"
train.init_checkpoint = "output/rmae_vitl/model_final.pth"
model.backbone.net.embed_dim = 1024
model.backbone.net.depth = 24
model.backbone.net.num_heads = 16
