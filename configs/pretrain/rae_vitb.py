"""RAE ViT-B/16 on COCO train2017: regions alone, no pixel decoder.

Command:     rmae-d2 train --config-file configs/pretrain/rae_vitb.py --num-gpus 8
Batch, GPUs: as rmae_vitb.py.
Reproduces:  R-MAE table 1b, length variant with FH regions: COCO 47.2 box AP (published, second-hand).
Measured:    not run.
"""

from .rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/rae_vitb"
model.pixel_decoder = None
