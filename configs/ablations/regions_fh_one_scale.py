"""R-MAE table 1d, regions from FH at one scale instead of three.

Command:   rmae-d2 train --config-file configs/ablations/regions_fh_one_scale.py --num-gpus 8
Published: R-MAE table 1d | FH, one scale | not found
Sweep:     rmae-d2 sweep with dataloader.train.mapper.regions.fallback.scales=[500],[1000],[1500]
Reading:   1000 is the scale in the published code's script and in its ImageNet command.
Measured:  not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/regions_fh_one_scale"
dataloader.train.mapper.regions.fallback.scales = (1000,)
