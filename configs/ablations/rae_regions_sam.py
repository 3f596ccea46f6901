"""R-MAE table 1d, RAE with regions from SAM.

Command:   rmae-d2 train --config-file configs/ablations/rae_regions_sam.py --num-gpus 8
Published: R-MAE table 1d | RAE, SAM | 50.6 (second-hand ×2) / 45.1 (second-hand)
Reading:   the store is that of regions_sam.py: dataloader.train.mapper.regions.path=DIR.
Measured:  not run here.
"""

from ..pretrain.rae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/rae_regions_sam"
dataloader.train.mapper.regions.fallback = None
