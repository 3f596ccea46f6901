"""The rows of `rmae-d2 benchmark gpu`: what is measured, on a GPU and in a rehearsal on a CPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Exit code of `gpu_rows` if a row cannot be measured here; its last line says why.
SKIPPED = 3

_PLAIN = ["MAE, plain", "R-MAE, plain", "MAE", "R-MAE"]
_OURS = ["MAE", "R-MAE"]
_DETECTOR = "coco/mask_rcnn_vitdet_b_100ep.py"
_UPERNET = "ade20k/upernet_vitb_160k.py"
_SMALL_NET = ["model.backbone.net.embed_dim=48", "model.backbone.net.num_heads=4"]
_SMALL_DETECTOR = [
    *_SMALL_NET,
    "model.backbone.net.depth=2",
    "model.backbone.net.window_block_indexes=[0]",
    "model.backbone.net.img_size=128",
    "model.proposal_generator.post_nms_topk=[20,20]",
    "model.roi_heads.num_classes=2",
    "train.device=cpu",
]
_SMALL_UPERNET = [
    *_SMALL_NET,
    "model.backbone.net.img_size=128",
    "model.window=128",
    "model.stride=128",
    "model.sem_seg_head.channels=16",
    "model.sem_seg_head.norm=LN",
    "model.backbone.norm=LN",
    "train.device=cpu",
]
_SMALL_SAM = {
    "vision_config": {
        **{"hidden_size": 16, "output_channels": 16, "num_hidden_layers": 2, "patch_size": 8},
        **{"num_attention_heads": 2, "image_size": 64, "window_size": 2, "num_pos_feats": 8},
        "global_attn_indexes": [1],
    },
    "prompt_encoder_config": {
        **{"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4}
    },
    "mask_decoder_config": {
        **{"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        "iou_head_hidden_dim": 16,
    },
}


@dataclass(frozen=True)
class Row:
    """A function of `gpu_rows`, with its arguments on a GPU and in a rehearsal on a CPU."""

    name: str
    kind: str
    options: Mapping[str, Any]
    toy: Mapping[str, Any]
    limit: float = 60.0  # seconds


def plan() -> list[Row]:
    """Returns all rows, the most important first because time may run out."""
    toy = {"arch": "tiny", "batch": 2, "repeat": 1}

    def pretrain(arch: str, batch: int, variants: list[str], limit: float = 60, **more: Any) -> Row:
        options = {"precision": "bf16", **more}
        words = ["compiled"] * bool(more.get("compile"))
        words += ["activation checkpointing"] * bool(more.get("checkpointing"))
        name = (
            f"pre-training, ViT-{arch}, {', '.join([options['precision'], *words])}, batch {batch}"
        )
        options |= {"variants": variants}
        return Row(
            name, "pretrain", {"arch": arch, "batch": batch, **options}, {**options, **toy}, limit
        )

    def backbone(size: str, batch: int) -> Row:
        name = f"ViTDet's backbone, ViT-{size}, 1024 pixels, bf16, batch {batch}"
        options = {"size": size, "batch": batch, "image": 1024, "precision": "bf16"}
        little = {**options, "size": "tiny", "image": 64, "batch": 1, "repeat": 1}
        return Row(name, "backbone", options, little)

    def finetune(name: str, config: str, image: int, batch: int, small: list[str]) -> Row:
        given = {"config": config, "image": image, "batch": batch, "overrides": []}
        little = {**given, "image": 128, "batch": 2, "overrides": small, "repeat": 1}
        return Row(f"{name}, {image} pixels, bf16, batch {batch}", "finetune", given, little)

    def predict(name: str, config: str, image: int, small: list[str]) -> Row:
        given = {"config": config, "image": image, "overrides": []}
        little = {**given, "image": 128, "overrides": small, "repeat": 1}
        return Row(f"{name}, prediction, {image} pixels", "predict", given, little)

    return [
        pretrain("base", 256, _PLAIN),
        pretrain("base", 256, _OURS, compile=True, limit=150),
        backbone("base", 1),
        backbone("base", 4),
        pretrain("large", 128, _OURS, compile=True, limit=180),
        backbone("large", 1),
        Row(
            "loader, one worker",
            "load",
            {"batch": 64, "batches": 8},
            {"batch": 4, "batches": 1},
            90,
        ),
        pretrain("base", 64, _PLAIN, precision="fp32"),
        pretrain("base", 1024, _OURS, checkpointing=True),
        pretrain("base", 64, _PLAIN),
        pretrain("base", 1024, _OURS),
        pretrain("large", 128, _PLAIN),
        finetune("ViTDet Mask R-CNN, ViT-B", _DETECTOR, 1024, 2, _SMALL_DETECTOR),
        finetune("UPerNet, ViT-B", _UPERNET, 512, 4, _SMALL_UPERNET),
        predict("ViTDet Mask R-CNN, ViT-B", _DETECTOR, 1024, _SMALL_DETECTOR),
        predict("UPerNet, ViT-B", _UPERNET, 512, _SMALL_UPERNET),
        Row("encoder as ONNX, ViT-B, fp32, batch 32", "onnx", {"arch": "base", "batch": 32}, toy),
        Row(
            "regions by SAM ViT-B, 1024 pixels, 32 x 32 points",
            "sam",
            {"image": 1024, "points": 32, "config": {}},
            {"image": 64, "points": 2, "config": _SMALL_SAM},
        ),
    ]
