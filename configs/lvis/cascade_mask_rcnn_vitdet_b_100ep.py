"""ViTDet-B, Cascade Mask R-CNN on LVIS v1, 100 epochs.

Command:     rmae-d2 train --num-gpus 8
             --config-file configs/lvis/cascade_mask_rcnn_vitdet_b_100ep.py
             train.init_checkpoint=PRETRAINED; default: the result of configs/pretrain/rmae_vitb.py.
Batch, GPUs: 64 images per step, published with one per GPU on 64. On 8 GPUs add train.grad_accum=8.
Schedule:    as Mask R-CNN: 156,250 steps * 64 images / 100,000 images = 100 epochs.
Published:   ViTDet table 10 | LVIS, Cascade Mask R-CNN, ViT-B | 43.0 / 38.9 (published, Detectron2's ViTDet)
Note:        R-MAE reports no Cascade numbers. The std of Mask R-CNN with ViT-B over five seeds is 0.30
             (Detectron2's ViTDet).
Resources:   15.2 GB and 0.356 s per step on 64 A100 (published, Detectron2's ViT): 15 hours.
Measured:    not run here.
"""

from ..common.models.cascade_mask_rcnn_vitdet import model
from ..common.models.lvis_predictor import predictor as _predictor
from .mask_rcnn_vitdet_b_100ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/lvis/cascade_mask_rcnn_vitdet_b_100ep"
model.roi_heads.num_classes = 1203
for _head in model.roi_heads.box_predictors:
    _head.update(_predictor)
