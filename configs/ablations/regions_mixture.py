"""Regions from several sources, one drawn per sample: FH three times as often as instances.

Command:   rmae-d2 train --config-file configs/ablations/regions_mixture.py --num-gpus 8
Published: not in the paper. FH alone 50.6 / 45.0 (second-hand); for instances see regions_instances.py.
Sweep:     rmae-d2 sweep with dataloader.train.mapper.regions.weights=[3,1],[1,1],[1,3]. Any source may be
           mixed, including stores: dataloader.train.mapper.regions.sources.1={_target_:
           rmae_d2.regions.StoredRegions, path: DIR}.
Reading:   the draw is a function of the seed and the position in training. Evaluation uses the instances of
           val2017, as in regions_instances.py.
Measured:  not run here.
"""

from detectron2.config import LazyCall as L

from rmae_d2.regions import MixtureOfSources

from ..common.data.pretrain import dataloader as fh
from .regions_instances import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/regions_mixture"
dataloader.train.mapper.regions = L(MixtureOfSources)(
    sources=[fh.train.mapper.regions, dataloader.train.mapper.regions], weights=[3.0, 1.0]
)
del fh
