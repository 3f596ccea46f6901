"""Region queries by attention pooling instead of the mean.

Command:   rmae-d2 train --config-file configs/ablations/query_pooling.py --num-gpus 8
Published: not in the paper, whose queries are means (second-hand).
Measured:  not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/query_pooling"
model.region_branch.query_pool = "attention"
