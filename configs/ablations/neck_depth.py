"""R-MAE, depth of the neck, here that of the published code.

Command:     rmae-d2 sweep --config-file configs/ablations/neck_depth.py --num-gpus 8
             --output output/ablations/neck_depth
             --then configs/coco/mask_rcnn_vitdet_b_100ep.py --then-set train.grad_accum=8
             model.region_branch.neck_depth=1,2,4,8
Published:   R-MAE text | depth of the neck | not found; 1 block in the paper (second-hand ×2), 8 in the
               published code
Reading:     on its own, this config uses the published code's 8.
Measured:    not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/neck_depth"
model.region_branch.neck_depth = 8
