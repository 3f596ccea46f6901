"""ViTDet-L, Mask R-CNN on COCO, 100 epochs.

Command:     rmae-d2 train --num-gpus 8 --config-file configs/coco/mask_rcnn_vitdet_l_100ep.py
             train.init_checkpoint=PRETRAINED; default: the result of configs/pretrain/rmae_vitl.py.
Batch, GPUs: 64 images per step, published with one per GPU on 64. On 8 GPUs add train.grad_accum=8.
Schedule:    as ViTDet-B: 184,375 steps * 64 images / 118,000 images = 100 epochs.
Published:   ViTDet table 5 | Mask R-CNN, ViT-L, MAE on ImageNet-1k | 55.6 / 49.2 (published); 55.5 / 49.2
               (published, Detectron2's ViTDet)
Note:        for R-MAE's weights see pretrain/rmae_vitl_imagenet.py. The std of Mask R-CNN with ViT-B over
             five seeds is 0.10 (Detectron2's ViTDet).
Resources:   20.9 GB and 0.603 s per step on 64 A100 (published, Detectron2's ViT): 31 hours.
Measured:    not run here.
"""

from ..common.models.vitdet_sizes import large as _large
from .mask_rcnn_vitdet_b_100ep import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/coco/mask_rcnn_vitdet_l_100ep"
train.init_checkpoint = "output/rmae_vitl/model_final.pth"
model.backbone.net.update(_large)
optimizer.params.lr_decay_rate = 0.8
