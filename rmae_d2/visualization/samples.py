"""Pictures kept during a run: ``samples/reconstruction_0000150.png`` was drawn after 150 iterations.

The choice is a function of the iteration alone, so a stopped and resumed run ends with the same pictures
as an uninterrupted one: the first, every n-th (n doubles whenever there would be too many), the last.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..files import atomic_file

#: Below a run's folder.
SAMPLES = "samples"

#: Maximum number of pictures of one period; with photographs some 300 KB each.
MAX_SAMPLES = 10

#: Pixels; wider pictures are scaled down.
MAX_WIDTH = 1600

_NAME = re.compile(r"reconstruction_(\d{7,12})\.png")


def kept_samples(run: Path) -> dict[int, Path]:
    """Returns a run's pictures by the number of iterations before each, in order."""
    paths = (run / SAMPLES).glob("reconstruction_*.png")
    found = {int(m.group(1)): path for path in paths if (m := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def is_kept(done: int, period: int) -> bool:
    """Whether to keep the picture after ``done`` iterations; the last is always kept.

    Args:
        done: a multiple of ``period``.
        period: iterations between two pictures.
    """
    return _stays(done, done, period)


def keep_sample(run: Path, picture: NDArray[Any], done: int, period: int) -> Path:
    """Writes a picture, then deletes those of this period that are now superfluous.

    Raises:
        OSError: if it could not be written.
    """
    path = run / SAMPLES / f"reconstruction_{done:07d}.png"
    path.parent.mkdir(exist_ok=True)
    image = Image.fromarray(np.asarray(picture, dtype=np.uint8))
    if image.width > MAX_WIDTH:
        height = round(image.height * MAX_WIDTH / image.width)
        image = image.resize((MAX_WIDTH, max(height, 1)), Image.Resampling.LANCZOS)
    with atomic_file(path, durable=False) as file:
        image.save(file, format="PNG", optimize=True)
    # Not those of another period, used before the run was resumed.
    for number, old in kept_samples(run).items():
        if number < done and number % period == 0 and not _stays(number, done, period):
            old.unlink(missing_ok=True)
    return path


def sweep_samples(run: Path, anew: bool) -> None:
    """Deletes what a killed run left unfinished; all pictures if a run starts ``anew`` in its folder."""
    unfinished = list((run / SAMPLES).glob("reconstruction_*.tmp*"))
    for path in [*unfinished, *(kept_samples(run).values() if anew else ())]:
        path.unlink(missing_ok=True)


def _stays(number: int, done: int, period: int) -> bool:
    """Keeps the first, and one per stride, leaving room for the first and the last."""
    stride = period
    while done // stride > MAX_SAMPLES - 2:
        stride *= 2
    return number == period or number % stride == 0
