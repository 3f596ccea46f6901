"""R-MAE of the study with nested regions, of which each level is drawn as often.

Command:     as rmae.py.
Batch:       as rmae.py.
Measured:    docs/study.md.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L

from rmae_d2.regions import NestedSource

from .rmae import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/study/rmae_nested"
# Evaluation stays on FH regions.
dataloader.test.mapper = deepcopy(dataloader.train.mapper)
dataloader.train.mapper.regions = L(NestedSource)(
    scales=(500, 2000, 8000), cache_dir="output/study/nested_regions"
)
dataloader.train.mapper.level_probabilities = [1, 1, 1]
