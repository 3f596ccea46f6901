"""R-MAE, loss: lambda, the weight of the region loss beside the pixel loss.

Command:   rmae-d2 train --config-file configs/ablations/region_weight.py --num-gpus 8
Published: values not found; default 1 (second-hand, v1; published code).
Sweep:     model.region_weight=0.1, 0.25, 0.5, 2, 4; the paper's points are not known.
Measured:  not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/region_weight"
model.region_weight = 0.5
