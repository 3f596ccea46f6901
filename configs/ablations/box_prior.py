"""AutoMAE's preliminary study: an MAE that hides patches inside objects' true boxes more often.

Command:     rmae-d2 sweep --config-file configs/ablations/box_prior.py --num-gpus 8
             --output output/ablations/box_prior --then configs/imagenet/linear_vitb.py
             model.masking.bonus=0,0.25,0.5,1
Published:   AutoMAE preliminary study | higher probability inside true boxes | not found; better than random
               masks (second-hand)
Reading:     the study's data, bonus and metric are not known. Assumed here: COCO's instances, 16 sampled if
             an image has more; the bonus is added to the noise of patches inside a box, 0 being MAE; a linear
             probe on ImageNet. On its own, this config uses AutoMAE's own bonus (beta), 0.5.
Measured:    not run here; on the scenes worse than random masks: linear probe of patches 19.5 ± 0.8 against
             22.2 ± 0.6 mIoU (docs/automae.md).
"""

from detectron2.config import LazyCall as L

from rmae_d2.modeling import BoxPriorMasking

from .regions_instances import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/box_prior"
model.region_branch = None
model.masking = L(BoxPriorMasking)(bonus=0.5)
dataloader.train.mapper.num_regions = dataloader.test.mapper.num_regions = 16
