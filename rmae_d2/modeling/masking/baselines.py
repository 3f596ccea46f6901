"""Baselines for learned masks; random masking is in `base`, region-based masking in
`regions`, and the two-stage baseline is `LearnedMasking` without a discriminator.

Every policy hides exactly as many patches as the model requests, for any ratio and grid.

Letters: B images, K regions or parts, N rectangles, L patches, V visible patches, H W pixels, Gh Gw grid.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...noise import hash_noise, random_shuffle, uniform_noise
from ..patches import patchify
from .base import MaskingPolicy, MaskPlan, MaskRequest, sorted_by
from .generator import UsesScorer
from .rectangles import Range, check_range, sample_rectangles
from .regions import needed_regions

# "grid" in ASCII: switches an image's seed to another noise stream.
_GRID_STREAM = 0x67726964


class BlockMasking(MaskingPolicy):
    """Hides rectangle after rectangle until enough patches are hidden (MAE, table 1f, "block").

    Of the last one only a random part is hidden; if all do not suffice, so are random patches outside them.

    Args:
        area: smallest and largest area of a rectangle as fractions of the grid's; BEiT's smallest is 16/196.
        side: smallest and largest length of one side as fractions of its axis.
        number: rectangles per image.
    """

    def __init__(
        self, area: Range = (16 / 196, 75 / 196), side: Range = (3 / 14, 1.0), number: int = 32
    ) -> None:
        super().__init__()
        check_range("area", area)
        check_range("side", side)
        self.area = area
        self.side = side
        self.number = number

    def forward(self, request: MaskRequest) -> MaskPlan:
        inside_BNL = sample_rectangles(
            request.seeds, request.grid, self.area, self.side, self.number
        ).flatten(2)
        turn_N1 = torch.arange(self.number, device=inside_BNL.device)[:, None]
        turn_BL = torch.where(inside_BNL, turn_N1, self.number).amin(dim=1)
        random_BL = random_shuffle(request.seeds, request.num_patches)
        return MaskPlan(sorted_by(turn_BL, random_BL).flip(1))


class GridMasking(MaskingPolicy):
    """Keeps one patch of every 2x2 visible at a ratio of 0.75, the same everywhere (MAE, table 1f, "grid").

    At other ratios, keeps two or three of the four, or a random part of these; the seed sets their order.
    """

    def forward(self, request: MaskRequest) -> MaskPlan:
        Gh, Gw = request.grid
        rows = torch.arange(Gh, device=request.seeds.device)[:, None]
        columns = torch.arange(Gw, device=request.seeds.device)
        place_L = (rows % 2 * 2 + columns % 2).flatten()
        turn_B4 = hash_noise(request.seeds ^ _GRID_STREAM, 4).argsort(dim=1)
        random_BL = random_shuffle(request.seeds, request.num_patches)
        return MaskPlan(sorted_by(turn_B4[:, place_L], random_BL))


class BoxPriorMasking(MaskingPolicy):
    """Hides patches inside objects' boxes with a higher probability (AutoMAE's preliminary study).

    The boxes come from the batch's region maps, which must be objects (``mapper.regions`` an InstanceSource).

    Args:
        bonus: added to a patch's U(0, 1) noise inside a box; the V lowest stay visible. 0 is random
            masking; from 1 on, boxes are hidden before anything else.
    """

    needs_regions = True

    def __init__(self, bonus: float = 0.5) -> None:
        super().__init__()
        self.bonus = bonus

    def forward(self, request: MaskRequest) -> MaskPlan:
        objects = "objects (dataloader.train.mapper.regions, InstanceSource)"
        regions = needed_regions(request, "BoxPriorMasking", objects)
        boxes_BHW = filled_boxes(regions).any(dim=1)
        patch_size = boxes_BHW.shape[1] // request.grid[0]
        inside_BL = patchify(boxes_BHW[:, None], patch_size).any(dim=2)
        noise_BL = uniform_noise(request.seeds, request.num_patches)
        return MaskPlan((noise_BL + self.bonus * inside_BL).argsort(dim=1, stable=True))


class AttentionGuidedMasking(UsesScorer, MaskingPolicy):
    """Moves from hiding a share of every image part to hiding whole parts (SemMAE, NeurIPS 2022).

    A part consists of the patches to which one head of a frozen ViT attends more than the others, with each
    head's attention normalised to sum 1; SemMAE learns its parts. With mu = 1 - progress^2, a share mu *
    ratio of each part is hidden at random, then part after part in random order until enough patches are
    hidden.
    """

    def forward(self, request: MaskRequest) -> MaskPlan:
        attention_BKL = self.scorer.attention(request.images)
        part_BL = (attention_BKL / attention_BKL.sum(dim=2, keepdim=True)).argmax(dim=1)
        parts = attention_BKL.shape[1]
        mu = 1 - request.progress**2
        share = mu * (request.num_patches - request.visible) / request.num_patches
        in_share_BL = _first_of_parts(part_BL, parts, share, request)
        turn_BK = hash_noise(request.seeds ^ _GRID_STREAM, parts).argsort(dim=1)
        turn_BL = torch.where(in_share_BL, 0, 1 + turn_BK.gather(1, part_BL))
        random_BL = random_shuffle(request.seeds, request.num_patches)
        return MaskPlan(sorted_by(turn_BL, random_BL).flip(1))


def filled_boxes(regions_BKHW: Tensor) -> Tensor:
    """Fills the bounding box of each region map: bool (B, K, H, W), empty for an empty map."""
    present = regions_BKHW > 0
    rows, columns = present.any(dim=3), present.any(dim=2)
    return _between(rows)[..., :, None] & _between(columns)[..., None, :]


def _between(present: Tensor) -> Tensor:
    """Fills from the first to the last True along the last dimension."""
    before = present.cumsum(dim=-1) > 0
    after = present.flip(-1).cumsum(dim=-1).flip(-1) > 0
    return before & after


def _first_of_parts(part_BL: Tensor, parts: int, share: float, request: MaskRequest) -> Tensor:
    """Selects a random share of each part's patches, rounded down: bool (B, L)."""
    order_BL = random_shuffle(request.seeds, request.num_patches)
    member_BLK = F.one_hot(part_BL.gather(1, order_BL), parts)
    rank_BL = (member_BLK.cumsum(dim=1) * member_BLK).sum(dim=2)  # 1 for a part's first patch
    quota_BK = (share * member_BLK.sum(dim=1)).long()
    first_BL = rank_BL <= quota_BK.gather(1, part_BL.gather(1, order_BL))
    return torch.zeros_like(first_BL).scatter(1, order_BL, first_BL)
