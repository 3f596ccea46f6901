"""R-MAE, loss: background pixels weigh less than foreground ones in the region loss.

Command:   rmae-d2 train --config-file configs/ablations/background_weight.py --num-gpus 8
Published: values not found; default 1 (second-hand, v1; published code).
Sweep:     model.background_weight=0.1, 0.25, 0.5, 2; the paper's points are not known.
Measured:  not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/background_weight"
model.background_weight = 0.5
