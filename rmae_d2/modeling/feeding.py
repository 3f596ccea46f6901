"""Which branch hears of the other (R-MAE, table 1e)."""

from torch import nn

from ..errors import UserError
from .pixel_decoder import PixelDecoder
from .pixel_encoder import init_linear
from .region_branch import RegionBranch
from .region_variants import SpatialRegionBranch

FEEDINGS = ("pixel_to_region", "region_to_pixel", "both")


def link_to_pixels(
    feeding: str,
    region_branch: RegionBranch | SpatialRegionBranch | None,
    pixel_decoder: PixelDecoder | None,
) -> nn.Linear | None:
    """What takes encoded regions to the pixel decoder's width, or None where it does not hear of them.

    Raises:
        UserError: for an unknown direction, or where a branch that it needs is absent.
    """
    if feeding not in FEEDINGS:
        raise UserError(f"feeding={feeding!r}: one of {', '.join(FEEDINGS)}")
    if feeding == "pixel_to_region":
        return None
    if region_branch is None or pixel_decoder is None:
        raise UserError(f"feeding={feeding!r} needs a region branch and a pixel decoder")
    link = nn.Linear(region_branch.summary_dim, pixel_decoder.embed.out_features)
    init_linear(link)
    return link
