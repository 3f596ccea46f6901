"""R-MAE, loss: squared error instead of binary cross-entropy.

Command:   rmae-d2 train --config-file configs/ablations/loss_l2.py --num-gpus 8
Published: R-MAE text | squared error for region maps | not found; worse than cross-entropy (second-hand ×2)
Reading:   squared error of the probability, see rmae_d2/modeling/losses.py.
Measured:  not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/loss_l2"
model.region_criterion = "l2"
