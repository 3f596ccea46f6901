"""The study's upper bound: the encoder learns the classes of the training scenes' pixels from scratch.

The number of views and the rate are those of pre-training; one linear layer on the patches, as in linear.py.

Command:     as rmae.py.
Batch:       as rmae.py.
Measured:    docs/study.md.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from rmae_d2.data import RandomResizedCrop
from rmae_d2.modeling.transfer.linear_probe import PatchEncoder

from .linear import dataloader, model
from .rmae import lr_multiplier, optimizer, train

train.output_dir = "output/study/supervised"
train.eval_period = 1500
model.backbone["_target_"] = PatchEncoder
dataloader.train.mapper.augmentations = [
    L(RandomResizedCrop)(size="${model.window}", scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3)),
    L(T.RandomFlip)(prob=0.5),
]
dataloader.train.total_batch_size = 64
dataloader.knn.period = 0
