"""R-MAE of the study with the objects' true masks as regions, which are not available without labels.

Command:     as rmae.py.
Batch:       as rmae.py.
Measured:    docs/study.md.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L

from rmae_d2.regions import InstanceSource

from .rmae import dataloader, labels, lr_multiplier, model, optimizer, train

train.output_dir = "output/study/rmae_instances"
# Evaluation stays on FH regions, and also uses instances.
dataloader.test.mapper = deepcopy(dataloader.train.mapper)
dataloader.train.mapper.regions = L(InstanceSource)(json_file=f"{labels}/instances_train.json")
