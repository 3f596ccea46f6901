"""R-MAE figure 4, beta_I = beta_R varied together.

Command:     rmae-d2 sweep --config-file configs/ablations/mask_ratio_joint.py --num-gpus 8
             --output output/ablations/mask_ratio_joint
             --then configs/coco/mask_rcnn_vitdet_b_100ep.py --then-set train.grad_accum=8
             model.mask_ratio=0.25,0.4,0.5,0.6,0.75,0.85,0.9
Published:   R-MAE figure 4 | beta_I = beta_R together | not found; about 0.75 is needed (paper)
Reading:     the points of the curve are ours, because the paper's are not known. On its own, this config
             trains the point 0.5.
Measured:    not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/mask_ratio_joint"
model.mask_ratio = 0.5
