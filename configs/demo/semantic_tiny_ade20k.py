"""UPerNet on ADE20K's own layout, small enough for a CPU: a smoke test on a few images, not for mIoU.

Command:     DETECTRON2_DATASETS=DIR rmae-d2 train
             --config-file configs/demo/semantic_tiny_ade20k.py
             train.init_checkpoint=output/demo/rmae_tiny_scenes/model_final.pth starts from the demo's
             pre-training.
Batch:       8 images per step.
Measured:    overfitting eight photos, at 96 pixels and rate 2e-3 from random weights: pixel accuracy 87.3,
             mIoU 38.4 after 300 steps, 1.2 s per step on one CPU core (others busy); the slow test in
             tests/engine/test_train_semantic.py. These defaults, 400 steps at 128 pixels, were not run.
"""

import torch
from detectron2.config import LazyCall as L

from rmae_d2.solver import layer_decayed_params

from ..common.data.ade20k import dataloader
from ..common.models.upernet_vit import model
from ..common.schedule_poly import lr_multiplier
from ..common.train import train

train.output_dir = "output/demo/semantic_tiny_ade20k"
train.max_iter = 400
train.clip_grad = 1.0
train.checkpointer.period = 200
train.eval_period = 400

model.backbone.net.img_size = 128
model.backbone.net.pretrain_img_size = 160
# What was measured: without cls token, windows half a window apart, half of the recipe's change of hue.
model.backbone.net.keep_cls_token = False
model.stride = None
dataloader.train.mapper.augmentations[3].hue = 18.0
model.backbone.net.embed_dim = 192
model.backbone.net.depth = 6
model.backbone.net.num_heads = 3
model.backbone.net.drop_path_rate = 0.0
model.backbone.net.out_indices = [1, 2, 3, 5]
model.backbone.in_features = ["block1", "block2", "block3", "block5"]
model.backbone.norm = "BN"
model.sem_seg_head.channels = 64
model.sem_seg_head.aux_channels = 32

lr_multiplier.warmup_length = 0.05

optimizer = L(torch.optim.AdamW)(
    params=L(layer_decayed_params)(base_lr="${..lr}", lr_decay_rate=0.8),
    lr=1e-3,
    betas=(0.9, 0.999),
    weight_decay=0.05,
    fused=True,
)

# 0.5 to 2 times the test size of 128.
dataloader.train.mapper.augmentations[0].short_edge_length = (64, 256)
dataloader.train.mapper.augmentations[0].max_size = 1024
dataloader.train.total_batch_size = 8
dataloader.train.num_workers = 2
dataloader.test.mapper.augmentations[0].max_size = 512
dataloader.test.num_workers = 2
