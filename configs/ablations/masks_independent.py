"""R-MAE, section 3.2: the two branches hide different patches.

Command:   rmae-d2 train --config-file configs/ablations/masks_independent.py --num-gpus 8
Published: R-MAE text | masks of the branches independent | not found; the default shares them (second-hand,
             v1; published code)
Measured:  not run here.
"""

from detectron2.config import LazyCall as L

from rmae_d2.modeling import IndependentMasking

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/masks_independent"
model.masking = L(IndependentMasking)()
