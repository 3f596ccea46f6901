"""R-MAE table 1d (v1), RAE with regions from COCO's instance ground truth.

Command:     rmae-d2 train --config-file configs/ablations/rae_regions_instances.py --num-gpus 8
Published:   R-MAE table 1d | RAE, instance ground truth (v1) | not found; no better than FH, 47.2, or worse
               (second-hand, v1)
Reading:     whether the paper's row is for RAE or R-MAE (regions_instances.py) is not known; masks and files
             as there.
Measured:    not run here.
"""

from .regions_instances import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/rae_regions_instances"
model.pixel_decoder = None
