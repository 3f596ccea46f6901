"""AutoMAE's two-stage baseline on the scenes: the frozen generator of a finished run masks a new MAE.

Command:     as automae_vitt_scenes.py, then
             rmae-d2 train --config-file configs/demo/automae_two_stage_scenes.py
Batch:       as rmae_tiny_scenes.py.
Differs:     from automae_vitt_scenes.py in that the generator gets no gradient.
Measured:    not run here with the published discriminator.
"""

from detectron2.config import LazyCall as L

from rmae_d2.checkpoint import load_generator

from .automae_vitt_scenes import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/demo/automae_two_stage_scenes"
model.masking.discriminator = None
model.masking.generator = L(load_generator)(
    generator=model.masking.generator,
    weights="output/demo/automae_vitt_scenes/model_final.pth",
)
