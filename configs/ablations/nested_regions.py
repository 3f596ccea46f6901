"""Not in the paper: nested regions, of which each level is drawn as often: parts, objects, groups.

Command:   rmae-d2 train --config-file configs/ablations/nested_regions.py --num-gpus 8
Published: not in the paper.
Measured:  not run here; at small size no difference found (docs/study.md). model.level_weights=[0.5,1,1]
           would halve the loss of parts.
"""

from detectron2.config import LazyCall as L

from rmae_d2.regions import NestedSource

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/nested_regions"
dataloader.train.mapper.regions.fallback = L(NestedSource)(
    scales=(500, 2000, 8000), cache_dir="${train.output_dir}/../region_cache"
)
dataloader.train.mapper.level_probabilities = [1, 1, 1]
