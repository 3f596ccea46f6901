"""R-MAE of the study with regions that a model finds: clusters of the shipped R-MAE's patch features.

The second round of pre-training: the shipped model was itself pre-trained on the FH regions of these scenes.

Command:     as rmae.py.
Batch:       as rmae.py.
Regions:     computed when a scene is first seen, 0.3 s each on a core (AMD EPYC), and kept for all seeds.
Measured:    docs/study.md.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L

from rmae_d2.inference.feature_regions import FeatureRegions

from .rmae import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/study/rmae_features"
# Evaluation stays on FH regions.
dataloader.test.mapper = deepcopy(dataloader.train.mapper)
dataloader.train.mapper.regions = L(FeatureRegions)(
    weights="rmae-d2://rmae_scenes", device="cpu", cache_dir="output/study/feature_regions"
)
