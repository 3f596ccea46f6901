"""Build the network that a configuration of the reference code (facebookresearch/r-mae) describes."""

from typing import Any

from ..modeling import RMAE, build_parts


def build_from_reference(config: dict[str, Any]) -> RMAE:
    """Build our network for reference weights.

    Args:
        config: the reference's model parameters: ``img_size``, ``embed_dim``, ``depth``, ``num_heads``,
            ``decoder_{embed_dim,depth,num_heads}``, ``region_{enc,dec}_{dim,depth,num_heads}``,
            ``region_cross_layer`` (neck depth), ``num_region`` (0: no region branch), ``mask_ratio``,
            ``region_mask_ratio``, ``use_mae_loss``, ``norm_pix_loss``, ``bg_loss_weight``,
            ``region_loss_weight``, ``mae_loss_weight``; ``patch_size`` (16) and ``in_chans`` (3).

    Raises:
        KeyError: a required entry is missing.
    """
    pixel_decoder = None
    if config.get("use_mae_loss", True):
        pixel_decoder = {size: config[f"decoder_{size}"] for size in ("depth", "num_heads")}
        pixel_decoder["dim"] = config["decoder_embed_dim"]
    region_branch = None
    if config["num_region"] > 0:
        region_branch = {
            "mask_ratio": config.get("region_mask_ratio"),
            "neck_depth": config["region_cross_layer"],
        }
        for size in ("dim", "depth", "num_heads"):
            region_branch[f"encoder_{size}"] = config[f"region_enc_{size}"]
            region_branch[f"decoder_{size}"] = config[f"region_dec_{size}"]
    parts = build_parts(
        img_size=config["img_size"],
        patch_size=config.get("patch_size", 16),
        in_chans=config.get("in_chans", 3),
        embed_dim=config["embed_dim"],
        depth=config["depth"],
        num_heads=config["num_heads"],
        pixel_decoder=pixel_decoder,
        region_branch=region_branch,
    )
    return RMAE(
        **parts,
        mask_ratio=config.get("mask_ratio", 0.75),
        norm_pix_loss=config.get("norm_pix_loss", True),
        pixel_weight=config.get("mae_loss_weight", 1.0),
        region_weight=config.get("region_loss_weight", 1.0),
        background_weight=config.get("bg_loss_weight", 1.0),
    )
