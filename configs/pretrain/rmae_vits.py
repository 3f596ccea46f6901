"""R-MAE ViT-S/16 on COCO train2017: rmae_vitb.py with a small pixel encoder.

Command:     rmae-d2 train --config-file configs/pretrain/rmae_vits.py --num-gpus 8
Batch, GPUs: as rmae_vitb.py.
Published:   nothing; the paper has no ViT-S. The decoders are those of ViT-B, so the pixel decoder accounts
             for most of the multiply-adds (docs/ablations.md).
Measured:    not run.
"""

from .rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/rmae_vits"
model.backbone.net.embed_dim = 384
model.backbone.net.num_heads = 6
