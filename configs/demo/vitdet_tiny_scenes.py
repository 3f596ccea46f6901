"""Mask R-CNN (ViTDet) on the scenes, small enough for a CPU, from the demo's pre-training.

Command:     rmae-d2 train --config-file configs/demo/vitdet_tiny_scenes.py
             train.init_checkpoint=output/demo/rmae_tiny_scenes/model_final.pth is the default; from scratch:
             train.init_checkpoint= train.output_dir=output/demo/vitdet_scratch
Batch:       4 images per step, 1000 steps = 4.4 epochs of 900 images.
Measured:    box / mask AP after 300, 400 and 500 steps: 3.9 / 1.9, 6.4 / 3.8 and 8.4 / 4.7 from 502 steps of
             R-MAE; 2.7 / 1.1, 4.5 / 2.4 and 7.3 / 4.4 from random weights. One seed, evaluated every 100
             steps, stopped there for lack of time (docs/scenes_ap.png); 0.6 s of one CPU core per step.
"""

import torch
from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T

from rmae_d2.data import build_eval_loader, build_train_loader
from rmae_d2.data.datasets import detection_dataset
from rmae_d2.evaluation import DetectionEvaluator
from rmae_d2.solver import layer_decayed_params

from ..common.models.mask_rcnn_vitdet import model
from ..common.schedule import lr_multiplier
from ..common.train import train

train.output_dir = "output/demo/vitdet_tiny_scenes"
train.init_checkpoint = "output/demo/rmae_tiny_scenes/model_final.pth"
train.max_iter = 1000
train.clip_grad = 1.0
train.checkpointer.period = 250
train.eval_period = 250

model.backbone.net.img_size = 160
model.backbone.net.pretrain_img_size = 160
model.backbone.net.embed_dim = 192
model.backbone.net.depth = 6
model.backbone.net.num_heads = 3
model.backbone.net.drop_path_rate = 0.0
# Global attention throughout: there are only 10x10 patches.
model.backbone.net.window_size = 0
model.backbone.net.window_block_indexes = []
model.backbone.out_channels = 64
# No stride 4, which would take more than half the time.
model.backbone.scale_factors = (2.0, 1.0, 0.5)
model.proposal_generator.in_features = ["p3", "p4", "p5", "p6"]
model.proposal_generator.head.conv_dims = [-1]
model.proposal_generator.anchor_generator.sizes = [[24], [48], [96], [192]]
model.proposal_generator.anchor_generator.strides = [8, 16, 32, 64]
model.proposal_generator.batch_size_per_image = 64
model.proposal_generator.pre_nms_topk = (200, 100)
model.proposal_generator.post_nms_topk = (100, 50)
for head in ("box", "mask"):
    model.roi_heads[f"{head}_in_features"] = ["p3", "p4", "p5"]
    model.roi_heads[f"{head}_pooler"].scales = (1 / 8, 1 / 16, 1 / 32)
model.roi_heads.num_classes = 12
model.roi_heads.batch_size_per_image = 32
model.roi_heads.positive_fraction = 0.5
model.roi_heads.box_head.conv_dims = []
model.roi_heads.box_head.fc_dims = [256, 256]
model.roi_heads.mask_head.conv_dims = [64, 64]

optimizer = L(torch.optim.AdamW)(
    params=L(layer_decayed_params)(base_lr="${..lr}", lr_decay_rate=0.9),
    lr=1e-3,
    betas=(0.9, 0.999),
    weight_decay=0.05,
    fused=True,
)

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(detection_dataset)(names="scenes_train", json=None, root=None),
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
        total_batch_size=4,
        num_workers=2,
        seed="${train.seed}",
        grad_accum="${train.grad_accum}",
    ),
    test=L(build_eval_loader)(
        dataset=L(detection_dataset)(names="scenes_val", json=None, root=None, filter_empty=False),
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
        seed="${train.seed}",
    ),
    evaluator=L(DetectionEvaluator)(
        dataset_name="${dataloader.test.dataset.names}",
        json="${dataloader.test.dataset.json}",
        output_dir="${train.output_dir}/inference",
    ),
)
