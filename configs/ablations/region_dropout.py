"""Not in the paper: trains with the first 1 to K regions, so that one model works with any number.

Command:   rmae-d2 train --config-file configs/ablations/region_dropout.py --num-gpus 8
Published: not in the paper.
Measured:  not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/region_dropout"
model.region_dropout = True
