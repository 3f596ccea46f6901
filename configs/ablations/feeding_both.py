"""R-MAE table 1e, each branch feeds the other.

Command:   rmae-d2 train --config-file configs/ablations/feeding_both.py --num-gpus 8
Published: R-MAE table 1e | both ways | not found; worse than pixel to region (second-hand ×2)
Reading:   as feeding_region_to_pixel.py, and the region branch also sees the pixel encoder's output.
Measured:  not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/feeding_both"
model.feeding = "both"
