"""Random rectangles on a patch grid: functions of seeds, the same on every machine.

Letters: B images, N rectangles per image, Gh Gw grid.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from ...errors import UserError
from ...noise import uniform_noise

Range = tuple[float, float]
#: Which side is drawn first.
Drawn = Literal["columns", "either"]

# AutoMAE's values as fractions of its 14 x 14 grid: 40 to 160 patches, one side 4 to 10.
AREA: Range = (40 / 196, 160 / 196)
SIDE: Range = (4 / 14, 10 / 14)

# "rectang" in ASCII: switches an image's seed to another noise stream.
_STREAM = 0x72656374616E67
_DRAWS = 6


def check_range(name: str, value: Range) -> None:
    """Rejects an invalid range of fractions, naming the field."""
    if len(value) != 2 or not 0 < value[0] <= value[1] <= 1:
        raise UserError(
            f"{name}={tuple(value)}: two shares of the grid, 0 < smallest <= largest <= 1"
        )


def check_drawn(name: str, value: str) -> None:
    """Rejects an unknown choice of the side drawn first, naming the field."""
    if value not in (known := get_args(Drawn)):
        raise UserError(f"{name}={value!r} is none of {', '.join(known)}")


def sample_rectangles(
    seeds_B: Tensor,
    grid: tuple[int, int],
    area: Range = AREA,
    side: Range = SIDE,
    number: int = 1,
    drawn: Drawn = "either",
) -> Tensor:
    """Samples rectangles of uniform area at uniform positions; one side is uniform, the other follows.

    The other side is ``min(its axis, ceil(area / side))``, so a rectangle may be slightly larger than
    its area, or smaller where it would leave the grid.

    Args:
        area: smallest and largest area, as fractions of the grid's.
        side: smallest and largest length of the side drawn first, as fractions of its axis.
        number: N.
        drawn: the side drawn first: ``columns``, as in AutoMAE's code, which makes 84 % of its rectangles
            taller than wide; or ``either``, at random, so that both orientations are equally frequent.

    Returns:
        bool (B, N, Gh, Gw), True inside.
    """
    noise = uniform_noise(seeds_B ^ _STREAM, number * _DRAWS).unflatten(1, (number, _DRAWS))
    u = noise.unbind(dim=2)
    Gh, Gw = grid
    area_BN = _integer(u[0], area, Gh * Gw)
    rows, columns = _integer(u[1], side, Gh), _integer(u[2], side, Gw)
    rows_first = u[3] < (0.5 if drawn == "either" else 0.0)
    height = torch.where(rows_first, rows, _ceil(area_BN, columns).clamp(max=Gh))
    width = torch.where(rows_first, _ceil(area_BN, rows).clamp(max=Gw), columns)
    inside_rows = _inside(_place(u[4], height, Gh), height, Gh)
    inside_columns = _inside(_place(u[5], width, Gw), width, Gw)
    return inside_rows[..., :, None] & inside_columns[..., None, :]


def _integer(u: Tensor, shares: Range, whole: int) -> Tensor:
    """Maps noise to uniform integers between two fractions of a whole, at least 1."""
    low, high = (max(1, round(share * whole)) for share in shares)
    return low + (u * (high - low + 1)).long().clamp(max=high - low)


def _place(u: Tensor, length: Tensor, whole: int) -> Tensor:
    """Draws the first patch of an interval uniformly among all positions where it fits."""
    room = whole - length
    return torch.minimum((u * (room + 1)).long(), room)


def _ceil(area: Tensor, side: Tensor) -> Tensor:
    return -(-area // side)


def _inside(first: Tensor, length: Tensor, whole: int) -> Tensor:
    at = torch.arange(whole, device=first.device)
    return (at >= first[..., None]) & (at < (first + length)[..., None])
