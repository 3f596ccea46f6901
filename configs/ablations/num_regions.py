"""R-MAE, number of regions K an image.

Command:   rmae-d2 train --config-file configs/ablations/num_regions.py --num-gpus 8
Published: values not found; default 8 (second-hand, v1).
Sweep:     dataloader.train.mapper.num_regions=1, 2, 4, 8, 16, 32; costs stand in
           docs/ablations.md.
Measured:  not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/num_regions"
dataloader.train.mapper.num_regions = 16
