"""ViTDet-B, Cascade Mask R-CNN on COCO, 100 epochs.

Command:     rmae-d2 train --num-gpus 8
             --config-file configs/coco/cascade_mask_rcnn_vitdet_b_100ep.py
             train.init_checkpoint=PRETRAINED; default: the result of configs/pretrain/rmae_vitb.py.
Batch, GPUs: 64 images per step, published with one per GPU on 64. On 8 GPUs add train.grad_accum=8.
Schedule:    as Mask R-CNN: 184,375 steps * 64 images / 118,000 images = 100 epochs.
Published:   ViTDet table 5 | Cascade Mask R-CNN, ViT-B, MAE on ImageNet-1k | 54.0 / 46.7 (published,
               Detectron2's ViTDet)
Note:        R-MAE reports no Cascade numbers. The std of Mask R-CNN with ViT-B over five seeds is 0.10
             (Detectron2's ViTDet).
Resources:   12.3 GB and 0.362 s per step on 64 A100 (published, Detectron2's ViT): 19 hours.
Measured:    not run here.
"""

from ..common.models.cascade_mask_rcnn_vitdet import model
from .mask_rcnn_vitdet_b_100ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/coco/cascade_mask_rcnn_vitdet_b_100ep"
