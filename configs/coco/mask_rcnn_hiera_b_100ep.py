"""Mask R-CNN with Hiera-B on COCO, 100 epochs: its four stages are the feature pyramid.

Command:     rmae-d2 train --num-gpus 8 --config-file configs/coco/mask_rcnn_hiera_b_100ep.py
             train.init_checkpoint=PRETRAINED; default: the result of configs/pretrain/rmae_hiera_b.py.
Batch, GPUs: 64 images per step, as ViTDet-B. On 8 GPUs add train.grad_accum=8.
Schedule:    as ViTDet-B.
Published:   nothing with R-MAE's weights; Hiera's paper (Ryali et al. 2023) has Mask R-CNN with MAE's weights
             and a recipe of its own.
Measured:    not run here.
"""

from detectron2.config import LazyCall as L

from rmae_d2.modeling import HieraPyramid, HieraStages

from .mask_rcnn_vitdet_b_100ep import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/coco/mask_rcnn_hiera_b_100ep"
train.init_checkpoint = "output/rmae_hiera_b/model_final.pth"
model.backbone = L(HieraPyramid)(
    net=L(HieraStages)(
        img_size=1024,
        patch_size=32,
        embed_dim=768,
        stages=(2, 3, 16, 3),
        drop_path_rate=0.2,
        use_act_checkpoint="${oc.select:train.activation_checkpointing,false}",
    ),
    out_channels=256,
)
optimizer.params.lr_decay_rate = 0.85
