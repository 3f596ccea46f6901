"""R-MAE table 1d (v1), regions from COCO's instance ground truth.

Command:   rmae-d2 train --config-file configs/ablations/regions_instances.py --num-gpus 8
Published: R-MAE table 1d | R-MAE, instance ground truth (v1) | not found; no better than FH, or worse
             (second-hand, v1)
Reading:   overlapping masks of things, without crowds; an image without things has empty maps. For another
           data set: dataloader.{train,test}.mapper.regions.json_file=FILE.
Measured:  not run here.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L

from rmae_d2.regions import InstanceSource

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/regions_instances"
labels = "${oc.env:DETECTRON2_DATASETS,datasets}/coco/annotations"
dataloader.train.mapper.regions = L(InstanceSource)(json_file=f"{labels}/instances_train2017.json")
dataloader.test.mapper = deepcopy(dataloader.train.mapper)
dataloader.test.mapper.regions.json_file = f"{labels}/instances_val2017.json"
