"""R-MAE table 1b, RAE, batch: each region is a separate pass.

Command:   rmae-d2 train --config-file configs/ablations/rae_batch.py --num-gpus 8
Published: R-MAE table 1b | RAE, batch | 47.2 box AP (second-hand); mask AP, mIoU not found
Note:      equal to length, at a cost linear in K (second-hand, v1).
Reading:   the paper's text was not available; rmae_d2/modeling/region_variants.py explains how this variant
           is interpreted.
Measured:  not run here.
"""

from rmae_d2.modeling import BatchRegionBranch

from ..pretrain.rae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/rae_batch"
model.region_branch["_target_"] = BatchRegionBranch
