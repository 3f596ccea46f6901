"""R-MAE of the study with FH regions and the objects' true masks, each for half the views.

Command:     as rmae.py.
Batch:       as rmae.py.
Measured:    docs/study.md.
"""

from detectron2.config import LazyCall as L

from rmae_d2.regions import MixtureOfSources

from .rmae import dataloader as fh
from .rmae_instances import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/study/rmae_mixture"
dataloader.train.mapper.regions = L(MixtureOfSources)(
    sources=[fh.train.mapper.regions, dataloader.train.mapper.regions], weights=[1.0, 1.0]
)
del fh
