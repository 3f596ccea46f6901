"""AutoMAE ViT-B/16 on ImageNet-1k, 800 epochs: an MAE that learns which patches to hide.

Command:     rmae-d2 train --config-file configs/pretrain/automae_vitb_imagenet.py --num-gpus 8
             model.masking.generator.scorer.weights=mae_pretrain_vit_base.pth
Batch, GPUs: 4096 images per step, published as 8 GPUs * 64 images * train.grad_accum=8.
Schedule:    800 epochs = 250,228 updates * 4096 images / 1,281,167 images; warm-up 40 of 800 epochs.
Scorer:      MAE's ViT-B of 800 epochs in the paper; any ViT-B/16 works, including DINO's or timm's.
Published:   AutoMAE ImageNet | linear probe | 66.7 top-1 (published code's README); MAE 63.7, SemMAE 65.0
               (second-hand)
             AutoMAE ImageNet | fine-tuning | 83.32 top-1 (published code's README); MAE 83.26, SemMAE 83.34
               (second-hand)
             AutoMAE segmentation | ADE20K, by ade20k/upernet_vitb_160k.py | not found; better than MAE's and
               SemMAE's (second-hand)
Differs:     generator and discriminator are updated simultaneously, in the published code the discriminator
             first; spectral norms are exact.
Measured:    not run here; on the scenes, with a small ViT, no better than random masks (docs/automae.md).
"""

from ..common.models.automae import masking, params
from .rmae_vitb_imagenet import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/automae_vitb_imagenet"
model.region_branch = None
model.masking = masking
optimizer.params = params
dataloader.train.mapper.regions = None
