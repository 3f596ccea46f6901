"""A small AutoMAE on the embedded scenes, for a CPU; its scorer is the demo's own small MAE.

Command:     python tools/make_scenes.py --output datasets/scenes
             python tools/train_net.py --config-file configs/demo/mae_tiny_scenes.py
             python tools/train_net.py --config-file configs/demo/automae_vitt_scenes.py
Batch:       as rmae_tiny_scenes.py.
Foreground:  hidden_foreground in the log is the share of hidden patches that touch an object,
             all_foreground that of all patches, which random masks would give.
Measured:    not run here.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L

from rmae_d2.regions import InstanceSource

from ..common.models.automae import masking, params
from .mae_tiny_scenes import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/demo/automae_vitt_scenes"
model.masking = masking
model.masking.generator.scorer.weights = "output/demo/mae_tiny_scenes/model_final.pth"
model.masking.generator.scorer.net.embed_dim = 192
model.masking.generator.scorer.net.depth = 6
model.masking.generator.scorer.net.num_heads = 3
model.masking.foreground = True
optimizer.params = params
# Labels for the log alone; evaluation needs none.
dataloader.test.mapper = deepcopy(dataloader.train.mapper)
labels = "${oc.env:DETECTRON2_DATASETS,datasets}/scenes/annotations"
dataloader.train.mapper.regions = L(InstanceSource)(json_file=f"{labels}/instances_train.json")
