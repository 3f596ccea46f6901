"""Encoder settings are stated once; this module hands them to other parts in LazyConfigs, Python and yacs."""

import inspect
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode, LazyCall
from omegaconf import DictConfig

from ..errors import UserError
from .patches import grid_of
from .pixel_decoder import PixelDecoder
from .pixel_encoder import MaskedViT, PixelEncoder
from .region_branch import RegionBranch
from .region_variants import BatchRegionBranch, ChannelRegionBranch

REGION_VARIANTS: dict[str, Any] = {
    "length": RegionBranch,
    "batch": BatchRegionBranch,
    "channel": ChannelRegionBranch,
}

# Keyed by constructor argument name.
_ENCODER_FACTS = {
    "img_size": "${model.backbone.net.img_size}",
    "patch_size": "${model.backbone.net.patch_size}",
    "in_chans": "${model.backbone.net.in_chans}",
    "in_dim": "${model.backbone.net.embed_dim}",
    "grid": LazyCall(grid_of)(
        image_size="${model.backbone.net.img_size}", patch_size="${model.backbone.net.patch_size}"
    ),
}


def part(target: Callable[..., Any], **arguments: Any) -> DictConfig:
    """Creates a LazyCall that takes its shapes from the encoder of its config.

    If the target accepts ``img_size``, ``patch_size``, ``in_chans``, ``in_dim`` (the encoder's width) or
    ``grid`` and ``arguments`` omits it, the value refers to ``model.backbone.net``.
    """
    taken = inspect.signature(target).parameters
    facts = {name: _ENCODER_FACTS[name] for name in taken if name in _ENCODER_FACTS}
    return LazyCall(target)(**{**facts, **arguments})


def build_parts(
    *, pixel_decoder: dict[str, Any] | None, region_branch: dict[str, Any] | None, **net: Any
) -> dict[str, Any]:
    """Builds ``backbone``, ``pixel_decoder`` and ``region_branch`` of an RMAE with matching shapes.

    Args:
        pixel_decoder: further arguments of `PixelDecoder`; None omits the decoder.
        region_branch: further arguments of the region branch; ``variant`` selects its class in
            `REGION_VARIANTS` (default ``length``). None omits the branch.
        net: arguments of `MaskedViT`.
    """
    encoder = MaskedViT(**net)
    facts = (encoder.embed_dim, encoder.grid, encoder.patch_size)
    parts: dict[str, Any] = dict.fromkeys(("pixel_decoder", "region_branch"))
    if pixel_decoder is not None:
        parts["pixel_decoder"] = PixelDecoder(*facts, encoder.in_chans, **pixel_decoder)
    if region_branch is not None:
        sizes = dict(region_branch)
        variant = sizes.pop("variant", "length")
        if variant not in REGION_VARIANTS:
            known = ", ".join(REGION_VARIANTS)
            raise UserError(f"unknown region variant {variant!r}: one of {known}")
        parts["region_branch"] = REGION_VARIANTS[variant](*facts, **sizes)
    return {"backbone": PixelEncoder(encoder), **parts}


def add_rmae_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.RMAE`` to a yacs config, so that ``build_model(cfg)`` builds an `RMAE`.

    Defaults are the paper's ViT-B; keys are the arguments of `RMAE`, its encoder and its parts. Set
    ``cfg.MODEL.META_ARCHITECTURE = "RMAE"`` to use it. Also sets the image format, mean and standard
    deviation to those of our loader, because Detectron2's defaults are for BGR images.
    """
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.MODEL.RMAE = CfgNode(
        {
            "IMG_SIZE": [224, 224],
            "PATCH_SIZE": 16,
            "EMBED_DIM": 768,
            "DEPTH": 12,
            "NUM_HEADS": 12,
            "MASK_RATIO": 0.75,
            "NORM_PIX_LOSS": True,
            "PIXEL_WEIGHT": 1.0,
            "REGION_WEIGHT": 1.0,
            "BACKGROUND_WEIGHT": 1.0,
            "REGION_CRITERION": "bce",
            "FEEDING": "pixel_to_region",
            "REGION_DROPOUT": False,
            "PIXEL_DECODER": {"ENABLED": True, "DIM": 512, "DEPTH": 8, "NUM_HEADS": 16},
            "REGION_BRANCH": {
                "ENABLED": True,
                "VARIANT": "length",
                "NECK_DEPTH": 1,
                "ENCODER_DIM": 128,
                "ENCODER_DEPTH": 1,
                "ENCODER_NUM_HEADS": 8,
                "DECODER_DIM": 128,
                "DECODER_DEPTH": 1,
                "DECODER_NUM_HEADS": 8,
            },
        }
    )


def encoder_from_cfg(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of `MaskedViT` from ``cfg.MODEL.RMAE``."""
    if "RMAE" not in cfg.MODEL:
        raise AttributeError(
            "cfg.MODEL.RMAE is missing: call rmae_d2.modeling.add_rmae_config(cfg) before merging a file"
        )
    sizes = lower_keys(cfg.MODEL.RMAE)
    names = ("img_size", "patch_size", "embed_dim", "depth", "num_heads")
    return {"in_chans": len(cfg.MODEL.PIXEL_MEAN), **{name: sizes[name] for name in names}}


def parts_from_cfg(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of `RMAE` from ``cfg.MODEL.RMAE``."""
    net = encoder_from_cfg(cfg)
    options = {k: v for k, v in lower_keys(cfg.MODEL.RMAE).items() if k not in net}
    parts = {name: lower_keys(options.pop(name)) for name in ("pixel_decoder", "region_branch")}
    present = {name: sizes if sizes.pop("enabled") else None for name, sizes in parts.items()}
    statistics = {"pixel_mean": cfg.MODEL.PIXEL_MEAN, "pixel_std": cfg.MODEL.PIXEL_STD}
    return {**build_parts(**net, **present), **options, **statistics}


def lower_keys(node: CfgNode) -> dict[str, Any]:
    """A yacs node as keyword arguments."""
    return {key.lower(): value for key, value in node.items()}
