"""ViTDet-H, Mask R-CNN on COCO, 75 epochs, as published.

Command:     rmae-d2 train --num-gpus 8 --config-file configs/coco/mask_rcnn_vitdet_h_75ep.py
             train.init_checkpoint=PRETRAINED. The default is MAE's ViT-H from Detectron2's storage: MAE
             trained with patches of 14 pixels; that file has them resized to 16.
Batch, GPUs: 64 images per step, published with one per GPU on 64. On 8 GPUs add train.grad_accum=8, and
             train.activation_checkpointing=true below 40 GB.
Schedule:    75 epochs = 138,281 steps * 64 images / 118,000 images; rate / 10 at 122,916 and 133,159. The
             warm-up is the same share of the run as ViT-B's, 187 steps, as published.
Published:   ViTDet table 5 | Mask R-CNN, ViT-H, MAE on ImageNet-1k | 56.7 / 50.2 (published, Detectron2's
               ViTDet)
Note:        R-MAE has no ViT-H. The std of Mask R-CNN with ViT-B over five seeds is 0.10 (Detectron2's
             ViTDet).
Resources:   31.5 GB and 1.098 s per step on 64 A100 (published, Detectron2's ViT): 42 hours.
Measured:    not run here.
"""

from ..common.models.vitdet_sizes import huge as _huge
from .mask_rcnn_vitdet_b_100ep import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/coco/mask_rcnn_vitdet_h_75ep"
train.init_checkpoint = "detectron2://ImageNetPretrained/MAE/mae_pretrain_vit_huge_p14to16.pth"
train.max_iter = 138_281
lr_multiplier.scheduler.milestones = [122_916, 133_159]
lr_multiplier.scheduler.num_updates = 138_281
model.backbone.net.update(_huge)
# Unlike B and L: norms and position embedding are decayed too.
optimizer.params.update(lr_decay_rate=0.9, weight_decay_norm=None, overrides={})
