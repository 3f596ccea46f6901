"""Draws only regions with a visible foreground patch: random_fg of the published code.

Command:   rmae-d2 train --config-file configs/ablations/visible_foreground.py --num-gpus 8
Published: R-MAE text | regions with visible foreground only | not found; the default draws any (published
             code)
Sweep:     dataloader.train.mapper.min_patches=2 is the published code's filter_small_patches, also off by
           default there.
Measured:  not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/visible_foreground"
dataloader.train.mapper.visible_foreground_only = True
