"""RAE ViT-B/16 on COCO train2017: regions only, no pixel decoder.

Command:     rmae-d2 train --config-file configs/pretrain/rae_vitb.py --num-gpus 8
Batch, GPUs: as rmae_vitb.py.
Published:   R-MAE table 1b | RAE, length (default) | 47.2 box AP (second-hand ×2); 4.7b FLOPs (from memory)
             R-MAE table 1d | RAE, FH, three scales | as table 1b
Measured:    not run.
"""

from .rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/rae_vitb"
model.pixel_decoder = None
