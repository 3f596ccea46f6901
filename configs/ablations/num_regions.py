"""R-MAE, number of regions K per image.

Command:     rmae-d2 sweep --config-file configs/ablations/num_regions.py --num-gpus 8
             --output output/ablations/num_regions
             --then configs/coco/mask_rcnn_vitdet_b_100ep.py --then-set train.grad_accum=8
             dataloader.train.mapper.num_regions=1,2,4,8,16,32
Published:   R-MAE text | number of regions | not found; 8 (second-hand, v1)
Reading:     the paper's points are not known; costs are in docs/ablations.md. On its own, this config trains
             the point 16.
Measured:    not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/num_regions"
dataloader.train.mapper.num_regions = 16
