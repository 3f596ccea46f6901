"""AutoMAE of the study with R-MAE's region branch.

Command:     as automae.py.
Batch:       as rmae.py.
Measured:    docs/study.md.
"""

from .automae import masking, params
from .rmae import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/study/automae_rmae"
model.masking = masking
optimizer.params = params
