"""Mask R-CNN (ViTDet) on the scenes, small enough for a CPU, from the demo's pre-training.

Command:     python tools/train_net.py --config-file configs/demo/vitdet_tiny_scenes.py
             train.init_checkpoint=output/demo/rmae_tiny_scenes/model_final.pth is its default; from scratch:
             train.init_checkpoint= train.output_dir=output/demo/vitdet_scratch
Batch:       8 images a step, 400 steps = 3.6 epochs of 900 images.
Measured:    100 steps only, 3 minutes on two CPU cores: losses fall, but no class score passes the
             threshold of 0.05 yet, so AP is undefined. 400 steps were not run. A plumbing check; for AP
             raise train.max_iter.
"""

from functools import partial

import torch
from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper, build_detection_test_loader, get_detection_dataset_dicts
from detectron2.data import transforms as T
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
from detectron2.solver.build import get_default_optimizer_params

from rmae_d2.data import build_train_loader

from ..common.models.mask_rcnn_vitdet import model
from ..common.schedule import lr_multiplier
from ..common.train import train

train.output_dir = "output/demo/vitdet_tiny_scenes"
train.init_checkpoint = "output/demo/rmae_tiny_scenes/model_final.pth"
train.max_iter = 400
train.clip_grad = 1.0
train.checkpointer.period = 200
train.eval_period = 400

model.backbone.net.img_size = 256
model.backbone.net.pretrain_img_size = 160
model.backbone.net.embed_dim = 192
model.backbone.net.depth = 6
model.backbone.net.num_heads = 3
model.backbone.net.drop_path_rate = 0.0
# Global attention throughout: 16x16 patches are few.
model.backbone.net.window_size = 0
model.backbone.net.window_block_indexes = []
model.backbone.out_channels = 64
model.proposal_generator.anchor_generator.sizes = [[16], [32], [64], [128], [256]]
model.proposal_generator.pre_nms_topk = (500, 250)
model.proposal_generator.post_nms_topk = (250, 100)
model.roi_heads.num_classes = 12
model.roi_heads.batch_size_per_image = 64
model.roi_heads.box_head.conv_dims = [64, 64]
model.roi_heads.box_head.fc_dims = [256]
model.roi_heads.mask_head.conv_dims = [64, 64, 64]

optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(
        base_lr="${..lr}",
        weight_decay_norm=0.0,
        lr_factor_func=partial(get_vit_lr_decay_rate, lr_decay_rate=0.8, num_layers=6),
        overrides={"pos_embed": {"weight_decay": 0.0}},
    ),
    lr=1e-3,
    betas=(0.9, 0.999),
    weight_decay=0.1,
    fused=True,
)

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="scenes_train"),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.RandomFlip)(horizontal=True),
                L(T.ResizeShortestEdge)(
                    short_edge_length="${model.backbone.net.img_size}",
                    max_size="${model.backbone.net.img_size}",
                ),
            ],
            image_format="RGB",
            use_instance_mask=True,
            instance_mask_format="bitmask",
            recompute_boxes=True,
        ),
        total_batch_size=8,
        num_workers=2,
        seed="${train.seed}",
        grad_accum="${train.grad_accum}",
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="scenes_val", filter_empty=False),
        mapper=L(DatasetMapper)(
            is_train=False,
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length="${model.backbone.net.img_size}",
                    max_size="${model.backbone.net.img_size}",
                ),
            ],
            image_format="RGB",
        ),
        num_workers=2,
    ),
    evaluator=L(COCOEvaluator)(
        dataset_name="scenes_val",
        output_dir="${train.output_dir}/inference",
        max_dets_per_image=100,
    ),
)
