"""R-MAE with Hiera-B on COCO train2017: a hierarchical encoder, of which 7 x 7 units of 32 pixels are masked.

Command:     rmae-d2 train --config-file configs/pretrain/rmae_hiera_b.py --num-gpus 8
Batch, GPUs: as rmae_vitb.py.
Schedule:    as rmae_vitb.py, 4000 epochs.
Published:   nothing for R-MAE. As in Hiera's own MAE pre-training (Ryali et al. 2023), 60 % are hidden.
Transfer:    coco/mask_rcnn_hiera_b_100ep.py.
Measured:    not run.
"""

from detectron2.config import LazyCall as L

from rmae_d2.modeling import MaskedHiera

from .rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/rmae_hiera_b"
model.backbone.net = L(MaskedHiera)(
    img_size=224,
    patch_size=32,
    in_chans=3,
    embed_dim=768,
    stages=(2, 3, 16, 3),
    use_act_checkpoint="${oc.select:train.activation_checkpointing,false}",
)
model.mask_ratio = 0.6
