"""AutoMAE ViT-B/16 on COCO train2017: mae_vitb.py with learned masks.

Command:     rmae-d2 train --config-file configs/pretrain/automae_vitb_coco.py --num-gpus 8
             model.masking.generator.scorer.weights=mae_pretrain_vit_base.pth
Batch, GPUs: as rmae_vitb.py; the frozen scorer adds a forward pass of a ViT-B over all patches.
Scorer:      as automae_vitb_imagenet.py; with output/mae_vitb/model_final.pth only COCO has been seen.
Foreground:  dataloader.train.mapper.regions={_target_: rmae_d2.regions.InstanceSource, json_file: FILE} and
             model.masking.foreground=true log the share of hidden patches that lie on objects.
Published:   AutoMAE detection | COCO | not found; better than MAE's (second-hand), from ImageNet
Measured:    not run here.
"""

from ..common.models.automae import masking, params
from .mae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/automae_vitb_coco"
model.masking = masking
optimizer.params = params
