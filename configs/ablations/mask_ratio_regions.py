"""R-MAE figure 4, beta_R alone: region patches have another mask ratio than pixel patches.

Command:     rmae-d2 sweep --config-file configs/ablations/mask_ratio_regions.py --num-gpus 8
             --output output/ablations/mask_ratio_regions
             --then configs/coco/mask_rcnn_vitdet_b_100ep.py --then-set train.grad_accum=8
             model.region_branch.mask_ratio=0.25,0.4,0.5,0.6,0.75,0.85,0.9
Published:   R-MAE figure 4 | beta_R alone | not found; about 0.75 is needed (paper)
Reading:     the points of the curve are ours, because the paper's are not known; beta_I stays 0.75. On its
             own, this config trains the point 0.5.
Ends:        input only, where regions help to predict pixels and are not predicted themselves:
             model.region_branch.mask_ratio=0 model.feeding=region_to_pixel. Target only, where no region
             patch is visible: model.region_branch.mask_ratio=1. The paper's text was not available. With no
             visible patch all queries are one learned vector, so length and batch predict the same map for
             every region: how likely a region covers a pixel of this image. Channel tells regions apart by
             their random position. The published code would take the mean of zero tokens.
Measured:    not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/mask_ratio_regions"
model.region_branch.mask_ratio = 0.5
