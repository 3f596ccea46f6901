"""R-MAE table 1d, RAE with regions from COCO's panoptic ground truth.

Command:     rmae-d2 train --config-file configs/ablations/rae_regions_panoptic.py --num-gpus 8
Published:   R-MAE table 1d | RAE, panoptic ground truth | not found; below SAM, 50.6 (second-hand)
Reading:     whether the paper's row is for RAE or R-MAE (regions_panoptic.py) is not known; files as there.
Measured:    not run here.
"""

from .regions_panoptic import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/rae_regions_panoptic"
model.pixel_decoder = None
