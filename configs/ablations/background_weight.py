"""R-MAE, loss: background pixels weigh less than foreground pixels in the region loss.

Command:     rmae-d2 sweep --config-file configs/ablations/background_weight.py --num-gpus 8
             --output output/ablations/background_weight
             --then configs/coco/mask_rcnn_vitdet_b_100ep.py --then-set train.grad_accum=8
             model.background_weight=0.1,0.25,0.5,1,2
Published:   R-MAE text | weight of background pixels in the region loss | not found; 1 (second-hand, v1;
               published code)
Reading:     the paper's points are not known. On its own, this config trains the point 0.5.
Measured:    not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/background_weight"
model.background_weight = 0.5
