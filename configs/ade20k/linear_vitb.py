"""Linear probe of a ViT-B/16 on ADE20K's patches, 40,000 iterations: one linear layer on the frozen encoder.

Command:     rmae-d2 train --config-file configs/ade20k/linear_vitb.py --num-gpus 8
             train.init_checkpoint=PRETRAINED (ours, MAE's, timm's, Hugging Face's)
Data:        ADEChallengeData2016 as published, under DETECTRON2_DATASETS.
Batch, GPUs: 16 images per step, 2 per GPU on 8.
Published:   nothing for MAE or R-MAE at this size; the protocol is DINOv2's "linear" (section 7.4): batch
             norm and a linear layer on the last block's patches, crops of 512, sliding window.
Differs:     optimisation is upernet_vitb_160k.py's schedule with its own learning rate (not tuned).
Measured:    not run here; no time or memory known.
"""

import torch
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.solver.build import get_default_optimizer_params

from rmae_d2.modeling import MaskedViT
from rmae_d2.modeling.transfer.linear_probe import FrozenEncoder, LinearHead

from .upernet_vitb_160k import dataloader, lr_multiplier, model, train

train.output_dir = "output/ade20k_linear_vitb"
train.max_iter = 40_000
train.eval_period = 40_000

model.window = 512
model.backbone = L(FrozenEncoder)(
    net=L(MaskedViT)(
        img_size="${model.window}", patch_size=16, embed_dim=768, depth=12, num_heads=12
    )
)
model.sem_seg_head = L(LinearHead)(
    input_shape={
        "patches": L(ShapeSpec)(
            channels="${model.backbone.net.embed_dim}", stride="${model.backbone.net.patch_size}"
        )
    },
    num_classes=150,
    norm="SyncBN",
)

optimizer = L(torch.optim.AdamW)(
    # Only the head's: the encoder's have no gradient.
    params=L(get_default_optimizer_params)(),
    lr=1e-3,
    weight_decay=0.0,
)
