"""Linear probe of a ViT-B/16 (MAE, table 10); fine-tuning with mode "finetune" and pool "mean"."""

from detectron2.config import LazyCall as L

from rmae_d2.modeling import MaskedViT, PixelEncoder
from rmae_d2.modeling.transfer.classifier import Classifier

model = L(Classifier)(
    backbone=L(PixelEncoder)(
        net=L(MaskedViT)(
            img_size=224,
            patch_size=16,
            in_chans=3,
            embed_dim=768,
            depth=12,
            num_heads=12,
            mlp_ratio=4.0,
            drop_path_rate=0.0,
            use_act_checkpoint="${oc.select:train.activation_checkpointing,false}",
        )
    ),
    num_classes=1000,
    mode="linear",
    pool="cls",
    label_smoothing=0.0,
    mixup_alpha=0.0,
    cutmix_alpha=0.0,
    random_erasing=0.0,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)
