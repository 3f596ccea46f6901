"""The network from flat numbers: the yacs path, and the one for configurations of other code."""

from typing import Any

from detectron2.config import CfgNode

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


def build_parts(
    *,
    img_size: int | tuple[int, int] = 224,
    patch_size: int = 16,
    in_chans: int = 3,
    embed_dim: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    pixel_decoder: dict[str, Any] | None,
    region_branch: dict[str, Any] | None,
) -> dict[str, Any]:
    """``backbone``, ``pixel_decoder`` and ``region_branch`` of an RMAE that agree on grid and width.

    Args:
        pixel_decoder: further arguments of :class:`PixelDecoder`; None for none.
        region_branch: further arguments of the region branch; ``variant`` names its class in
            :data:`REGION_VARIANTS`, by default ``length``. None for none.

    Raises:
        UserError: for an unknown variant.
    """
    region_branch = None if region_branch is None else dict(region_branch)
    variant = region_branch.pop("variant", "length") if region_branch else "length"
    if variant not in REGION_VARIANTS:
        raise UserError(f"unknown region variant {variant!r}: one of {', '.join(REGION_VARIANTS)}")
    grid = grid_of(img_size, patch_size)
    net = MaskedViT(img_size, patch_size, in_chans, embed_dim, depth, num_heads)
    return {
        "backbone": PixelEncoder(net),
        "pixel_decoder": None
        if pixel_decoder is None
        else PixelDecoder(embed_dim, grid, patch_size, in_chans, **pixel_decoder),
        "region_branch": None
        if region_branch is None
        else REGION_VARIANTS[variant](embed_dim, grid, patch_size, **region_branch),
    }


def add_rmae_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.RMAE`` to a yacs config, so that ``build_model(cfg)`` builds an :class:`RMAE`.

    Defaults are the paper's ViT-B. Set ``cfg.MODEL.META_ARCHITECTURE = "RMAE"`` to use it. The images'
    format, mean and deviation become those of our loader, for Detectron2's own are of BGR images.
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


def parts_from_cfg(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of :class:`RMAE` from ``cfg.MODEL.RMAE``.

    Raises:
        AttributeError: where :func:`add_rmae_config` was not called.
    """
    if "RMAE" not in cfg.MODEL:
        raise AttributeError(
            "cfg.MODEL.RMAE is missing: call rmae_d2.modeling.add_rmae_config(cfg) before merging a file"
        )
    c = cfg.MODEL.RMAE

    def lower(node: CfgNode) -> dict[str, Any] | None:
        if not node.ENABLED:
            return None
        return {key.lower(): value for key, value in node.items() if key != "ENABLED"}

    return {
        **build_parts(
            img_size=tuple(c.IMG_SIZE),
            patch_size=c.PATCH_SIZE,
            in_chans=len(cfg.MODEL.PIXEL_MEAN),
            embed_dim=c.EMBED_DIM,
            depth=c.DEPTH,
            num_heads=c.NUM_HEADS,
            pixel_decoder=lower(c.PIXEL_DECODER),
            region_branch=lower(c.REGION_BRANCH),
        ),
        "mask_ratio": c.MASK_RATIO,
        "norm_pix_loss": c.NORM_PIX_LOSS,
        "pixel_weight": c.PIXEL_WEIGHT,
        "region_weight": c.REGION_WEIGHT,
        "background_weight": c.BACKGROUND_WEIGHT,
        "region_criterion": c.REGION_CRITERION,
        "feeding": c.FEEDING,
        "region_dropout": c.REGION_DROPOUT,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
    }
