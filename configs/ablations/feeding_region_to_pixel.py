"""R-MAE table 1e, the region branch feeds the pixel branch, but not vice versa.

Command:   rmae-d2 train --config-file configs/ablations/feeding_region_to_pixel.py --num-gpus 8
Published: R-MAE table 1e | region to pixel | not found; worse than pixel to region (second-hand ×2)
Reading:   encoded regions are additional tokens of the pixel decoder; summaries of the paper give no further
           detail.
Measured:  not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/feeding_region_to_pixel"
model.feeding = "region_to_pixel"
