"""UPerNet on a plain ViT-B, as BEiT and MAE transfer to ADE20K (MAE, appendix A.4)."""

from functools import partial

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from torch import nn

from rmae_d2.modeling import ViT
from rmae_d2.modeling.transfer.segmentor import MultiScale, SlidingSemanticSegmentor
from rmae_d2.modeling.transfer.upernet import TapPyramid, UPerNetHead

model = L(SlidingSemanticSegmentor)(
    backbone=L(TapPyramid)(
        net=L(ViT)(
            img_size=512,
            patch_size=16,
            embed_dim=768,
            depth=12,
            num_heads=12,
            drop_path_rate=0.1,
            mlp_ratio=4,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            # Global attention throughout: 1,024 patches.
            window_size=0,
            window_block_indexes=[],
            residual_block_indexes=[],
            # In fine-tuning only.
            use_rel_pos=True,
            # The pre-trained table is resized to 32x32 when it is loaded, and trained at that size.
            pretrain_img_size="${.img_size}",
            keep_cls_token=True,
            out_feature="last_feat",
            out_indices=[3, 5, 7, 11],
            use_act_checkpoint="${oc.select:train.activation_checkpointing,false}",
        ),
        in_features=["block3", "block5", "block7", "block11"],
        # Batch norm with the statistics of all GPUs. With one image per process: model.backbone.norm=LN.
        norm="SyncBN",
    ),
    sem_seg_head=L(UPerNetHead)(
        input_shape={
            name: L(ShapeSpec)(channels="${model.backbone.net.embed_dim}", stride=stride)
            for name, stride in (("p2", 4), ("p3", 8), ("p4", 16), ("p5", 32))
        },
        num_classes=150,
        channels="${model.backbone.net.embed_dim}",
        pool_grids=(1, 2, 3, 6),
        dropout=0.1,
        norm="${model.backbone.norm}",
        loss_weight=1.0,
        aux_in_feature="p4",
        aux_channels=256,
        aux_loss_weight=0.4,
        ignore_value=255,
    ),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    # One pass over the whole image: model.inference=whole.
    inference="slide",
    window="${model.backbone.net.img_size}",
    # Two thirds of the window, as published (426 of 640); null for half of it.
    stride=341,
    windows_per_batch=4,
    # Published: model.multi_scale.scales=[0.5,0.75,1.0,1.25,1.5,1.75] model.multi_scale.flip=true
    multi_scale=L(MultiScale)(scales=[1.0], flip=False),
    # For large images with our evaluator: model.output=labels.
    output="logits",
)
