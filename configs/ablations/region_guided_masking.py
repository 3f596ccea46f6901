"""Not in the paper: hides whole regions, the counterpart of AutoMAE's object prior.

Command:   rmae-d2 train --config-file configs/ablations/region_guided_masking.py --num-gpus 8
Published: not in the paper.
Sweep:     rmae-d2 sweep with model.masking.pixels.share=0.25,0.5,0.75,1
Reading:   region patches keep their own random mask, because the query of a completely hidden region would
           carry no information.
Measured:  not run here.
"""

from detectron2.config import LazyCall as L

from rmae_d2.modeling import IndependentMasking, RegionGuidedMasking

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/region_guided_masking"
model.masking = L(IndependentMasking)(pixels=L(RegionGuidedMasking)(share=0.5))
