r"""AutoMAE's two-stage baseline, ViT-B/16 on COCO: the frozen generator of a finished run masks a new MAE.

Command:     rmae-d2 train --num-gpus 8 \
             --config-file configs/pretrain/automae_two_stage_vitb_coco.py
             model.masking.generator.generator.scorer.weights=mae_pretrain_vit_base.pth
Batch, GPUs: as automae_vitb_coco.py, which must be run first; the scorer is the same as there.
Published:   AutoMAE detection | two-stage baseline | not found; the paper argues with such a baseline
Measured:    not run here.
"""

from detectron2.config import LazyCall as L

from rmae_d2.checkpoint import load_generator

from .automae_vitb_coco import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/automae_two_stage_vitb_coco"
model.masking.discriminator = None
model.masking.generator = L(load_generator)(
    generator=model.masking.generator,
    weights="output/automae_vitb_coco/model_final.pth",
)
