"""R-MAE table 1d, regions from COCO's panoptic ground truth.

Command:   rmae-d2 train --config-file configs/ablations/regions_panoptic.py --num-gpus 8
Published: R-MAE table 1d | R-MAE, panoptic ground truth | not found; below SAM (second-hand)
Note:      whether the paper's row is for RAE or R-MAE is not known.
Reading:   folders panoptic_{train,val}2017 of PNGs beside COCO's images; for others
           dataloader.train.mapper.regions.folder=DIR.
Measured:  not run here.
"""

from detectron2.config import LazyCall as L

from rmae_d2.regions import PanopticSource

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/regions_panoptic"
dataloader.train.dataset.names = ("coco_2017_train_panoptic",)
dataloader.test.dataset.names = ("coco_2017_val_panoptic",)
dataloader.train.mapper.regions = L(PanopticSource)()
