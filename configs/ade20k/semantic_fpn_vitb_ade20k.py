"""Semantic FPN, ViT-B/16, on ADE20K: Detectron2's SemSegFPNHead on ViTDet's simple feature pyramid.

Command:     rmae-d2 train --config-file configs/ade20k/semantic_fpn_vitb_ade20k.py --num-gpus 8
             train.init_checkpoint=PRETRAINED
Batch, GPUs: as upernet_vitb_160k.py; there is no batch norm, so one image per GPU works too.
Published:   nothing: a light head for comparisons, with the ViT (cls token kept), optimisation and test of
             upernet_vitb_160k.py; its overrides for the earlier variant work here too.
Measured:    not run here; no time or memory known.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead

from rmae_d2.modeling import SimpleFeaturePyramid

from .upernet_vitb_160k import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/semantic_fpn_vitb_ade20k"
model.backbone.net.out_indices = []
model.backbone = L(SimpleFeaturePyramid)(
    net=model.backbone.net,
    in_feature="${.net.out_feature}",
    out_channels=256,
    scale_factors=(4.0, 2.0, 1.0, 0.5),
    norm="LN",
    square_pad=0,
)
model.sem_seg_head = L(SemSegFPNHead)(
    input_shape={
        name: L(ShapeSpec)(channels="${model.backbone.out_channels}", stride=stride)
        for name, stride in (("p2", 4), ("p3", 8), ("p4", 16), ("p5", 32))
    },
    num_classes=150,
    conv_dims=128,
    common_stride=4,
    loss_weight=1.0,
    norm="GN",
    ignore_value=255,
)
