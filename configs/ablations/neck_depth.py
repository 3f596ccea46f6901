"""R-MAE, depth of the neck: that of the published code.

Command:   rmae-d2 train --config-file configs/ablations/neck_depth.py --num-gpus 8
Published: 8 blocks in the published code, 1 block in the paper (second-hand, two sources);
           numbers not found.
Sweep:     model.region_branch.neck_depth=1, 2, 4, 8
Measured:  not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/neck_depth"
model.region_branch.neck_depth = 8
