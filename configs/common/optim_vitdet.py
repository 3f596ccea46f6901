"""ViTDet's AdamW (appendix A.2): rates fall from the heads to the patch embedding; biases are decayed."""

import torch
from detectron2.config import LazyCall as L

from rmae_d2.solver import layer_decayed_params

optimizer = L(torch.optim.AdamW)(
    params=L(layer_decayed_params)(
        base_lr="${..lr}",
        # 0.7 for ViT-B, 0.8 for L, 0.9 for H.
        lr_decay_rate=0.7,
        weight_decay_norm=0.0,
        overrides={"pos_embed": {"weight_decay": 0.0}},
    ),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.1,
    fused=True,
)
