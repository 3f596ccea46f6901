"""ViTDet-B, Mask R-CNN on LVIS v1, 100 epochs.

Command:     rmae-d2 train --num-gpus 8 --config-file configs/lvis/mask_rcnn_vitdet_b_100ep.py
             train.init_checkpoint=PRETRAINED; default: the result of configs/pretrain/rmae_vitb.py.
Batch, GPUs: 64 images per step, published with one per GPU on 64. On 8 GPUs add train.grad_accum=8.
Schedule:    100 epochs = 156,250 steps * 64 images / 100,000 images; rate / 10 at 138,889 and 150,463. Images
             with rare classes are repeated: max(1, sqrt(0.001 / share of images)).
Loss:        sigmoid and federated: 50 classes per batch, sampled by the square root of their number of
             images.
Published:   R-MAE table 4 | LVIS | 38.3, MAE 37.7 box AP; rare classes +1.3 over MAE (second-hand)
             ViTDet table 10 | LVIS, Mask R-CNN, ViT-B | 40.1 / 38.1 (published); 40.2 / 38.2, std of five
               seeds 0.30 (Detectron2's ViTDet)
Resources:   14.4 GB and 0.317 s per step on 64 A100 (published, Detectron2's ViT): 14 hours.
Measured:    not run here.
"""

from ..coco.mask_rcnn_vitdet_b_100ep import lr_multiplier, model, optimizer, train
from ..common.data.lvis_lsj import dataloader
from ..common.models.lvis_predictor import predictor as _predictor

train.output_dir = "output/lvis/mask_rcnn_vitdet_b_100ep"
train.max_iter = 156_250
train.eval_period = 30_000
lr_multiplier.scheduler.milestones = [138_889, 150_463]
lr_multiplier.scheduler.num_updates = 156_250
lr_multiplier.warmup_length = 250 / 156_250
optimizer.lr = 2e-4
model.roi_heads.num_classes = 1203
model.roi_heads.box_predictor.update(_predictor)
