"""R-MAE, loss: lambda, the weight of the region loss relative to the pixel loss.

Command:     rmae-d2 sweep --config-file configs/ablations/region_weight.py --num-gpus 8
             --output output/ablations/region_weight
             --then configs/coco/mask_rcnn_vitdet_b_100ep.py --then-set train.grad_accum=8
             model.region_weight=0.1,0.25,0.5,1,2,4
Published:   R-MAE text | weight of the region loss, lambda | not found; 1 (second-hand, v1; published code)
Reading:     the paper's points are not known. On its own, this config trains the point 0.5.
Measured:    not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/region_weight"
model.region_weight = 0.5
