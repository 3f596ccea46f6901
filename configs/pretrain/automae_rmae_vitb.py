"""R-MAE ViT-B/16 on COCO train2017 with AutoMAE's masks: both branches hide what the generator proposes.

Command:     rmae-d2 train --config-file configs/pretrain/automae_rmae_vitb.py --num-gpus 8
             model.masking.generator.scorer.weights=mae_pretrain_vit_base.pth
Batch, GPUs: as automae_vitb_coco.py.
Regions:     as rmae_vitb.py. The region loss also reaches the generator through the visible tokens.
Published:   nothing for the combination. For either alone: rmae_vitb.py, automae_vitb_coco.py.
Measured:    not run here.
"""

from ..common.models.automae import masking, params
from .rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/automae_rmae_vitb"
model.masking = masking
optimizer.params = params
