"""A small AutoMAE on the rendered scenes, for a CPU; its scorer is the demo's own small MAE.

Command:     rmae-d2 scenes --output datasets/scenes
             rmae-d2 train --config-file configs/demo/mae_tiny_scenes.py
             rmae-d2 train --config-file configs/demo/automae_vitt_scenes.py
Batch:       as rmae_tiny_scenes.py.
Foreground:  hidden_foreground in the log is the share of hidden patches that lie on objects, all_foreground
             that of all patches, which random masks would give; at the end the same for the validation
             scenes.
Constants:   the published ones.
Measured:    1200 steps, three seeds, with a scorer of 1200 steps (docs/automae.md): probability on objects
             1.23 to 1.25 times that of chance, of which position explains 1.13; hidden patches 1.02 times.
             0.6 s of a CPU core per step.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L
from detectron2.evaluation import DatasetEvaluators

from rmae_d2.evaluation import ForegroundEvaluator
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
# Labels for the report alone; nothing is learned from them.
labels = "${oc.env:DETECTRON2_DATASETS,datasets}/scenes/annotations"
dataloader.test.mapper = deepcopy(dataloader.train.mapper)
dataloader.train.mapper.regions = L(InstanceSource)(json_file=f"{labels}/instances_train.json")
dataloader.test.mapper.regions = L(InstanceSource)(json_file=f"{labels}/instances_val.json")
dataloader.evaluator = L(DatasetEvaluators)(
    evaluators=[dataloader.evaluator, L(ForegroundEvaluator)()]
)
