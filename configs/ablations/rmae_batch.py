"""R-MAE table 1c, R-MAE, batch: each region is a separate pass.

Command:   rmae-d2 train --config-file configs/ablations/rmae_batch.py --num-gpus 8
Published: R-MAE table 1c | R-MAE, batch | not found; matched by length at negligible cost (second-hand ×2)
Reading:   the paper's text was not available; rmae_d2/modeling/region_variants.py explains how this variant
           is interpreted.
Measured:  not run here.
"""

from rmae_d2.modeling import BatchRegionBranch

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/rmae_batch"
model.region_branch["_target_"] = BatchRegionBranch
