"""A small AutoMAE on the embedded scenes, for a CPU; its scorer is the demo's own small MAE.

Command:     rmae-d2 scenes --output datasets/scenes
             rmae-d2 train --config-file configs/demo/mae_tiny_scenes.py
             rmae-d2 train --config-file configs/demo/automae_vitt_scenes.py
Batch:       as rmae_tiny_scenes.py.
Foreground:  hidden_foreground in the log is the share of hidden patches on objects, all_foreground that of
             all patches, which random masks would give; the same at the end, on the validation scenes.
Differs:     from the published constants, for a small scorer and a short run. The temperature is 4: at 1 a
             sample's Gumbel noise stands out so much more than a rectangle does that the generator fools the
             discriminator best by preferring nothing. Attention is relative, and that of the fourth of six
             blocks: so short a pre-training leaves the last one's blind to objects.
Measured:    300 steps, three seeds (docs/automae.md): probability on objects 1.18 to 1.27 times that of
             chance, hidden patches 1.004 to 1.011 times. 0.8 s of a CPU core a step.
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
model.masking.generator.scorer.block = 3
model.masking.generator.scorer.net.embed_dim = 192
model.masking.generator.scorer.net.depth = 6
model.masking.generator.scorer.net.num_heads = 3
model.masking.generator.relative_attention = True
model.masking.temperature = 4.0
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
