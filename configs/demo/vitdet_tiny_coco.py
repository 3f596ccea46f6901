"""The demo's Mask R-CNN (ViTDet) on COCO's own layout: a smoke test on a few images, not for AP.

Command:     DETECTRON2_DATASETS=DIR rmae-d2 train --config-file configs/demo/vitdet_tiny_coco.py
             train.init_checkpoint=PRETRAINED
"""

from .vitdet_tiny_scenes import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/demo/vitdet_tiny_coco"
model.roi_heads.num_classes = 80
dataloader.train.dataset.names = "coco_2017_train"
# COCO's own masks are polygons.
dataloader.train.mapper.instance_mask_format = "polygon"
dataloader.test.dataset.names = "coco_2017_val"
