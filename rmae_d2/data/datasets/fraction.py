"""Few labels: a share of a data set's images, the same on every machine and in every process."""

import hashlib
import logging
import os
from collections import defaultdict
from typing import Any

from ...config.ranges import UP_TO_ONE
from ...errors import UserError

logger = logging.getLogger(__name__)

_Dicts = list[dict[str, Any]]


def take_fraction(
    dicts: _Dicts, fraction: float | None, seed: int, source: str, *, per_class: bool = False
) -> _Dicts:
    """Keeps a share of the images, by the SHA-256 of seed and image id.

    The choice depends on ids, seed and fraction alone, not on where or in which order the files lie; what a
    smaller fraction keeps a larger one of the same seed keeps too. An id that is the file's path counts from
    the folder that all images have in common.

    Args:
        dicts: dataset dicts with an ``image_id``, and a ``label`` where ``per_class``.
        fraction: in (0, 1]; None for all images.
        seed: another one, another choice.
        source: what the data are called, for the log and messages.
        per_class: keep round(fraction * its images), and at least one image, of each class; else
            round(fraction * all images), whatever they show.

    Returns:
        those kept, in their order.

    Raises:
        UserError: another fraction, or one that keeps no image.
    """
    if fraction is None:
        return dicts
    if fraction not in UP_TO_ONE:
        raise UserError(
            f"dataset.fraction={fraction}: the share of {source} to keep, {UP_TO_ONE}; null for all"
        )
    ranks = [_rank(seed, name) for name in _names(dicts)]
    groups: dict[Any, list[int]] = defaultdict(list)
    for place, sample in enumerate(dicts):
        groups[sample["label"] if per_class else None].append(place)
    kept: set[int] = set()
    for places in groups.values():
        count = max(round(fraction * len(places)), int(per_class))
        kept.update(sorted(places, key=ranks.__getitem__)[:count])
    if not kept:
        raise UserError(
            f"dataset.fraction={fraction} of the {len(dicts)} images of {source} is none: set it to "
            f"{1 / max(len(dicts), 1):.2g} or more"
        )
    taken = [dicts[place] for place in sorted(kept)]
    text = "few labels: %s of %s images of %s (%g %%, seed %d%s)"
    spread = _spread(dicts, taken) if "label" in dicts[0] else ""
    logger.info(text, f"{len(taken):,}", f"{len(dicts):,}", source, 100 * fraction, seed, spread)
    return taken


def _names(dicts: _Dicts) -> list[str]:
    """By which images are told from each other on every machine."""
    files = [str(sample["file_name"]) for sample in dicts]
    ids = [str(sample.get("image_id", file)) for sample, file in zip(dicts, files, strict=True)]
    folders = [
        os.path.dirname(file) + "/" for name, file in zip(ids, files, strict=True) if name == file
    ]
    common = len(os.path.commonprefix(folders).rpartition("/")[0])
    return [
        name[common:] if name == file else name for name, file in zip(ids, files, strict=True)
    ]


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()


def _spread(dicts: _Dicts, taken: _Dicts) -> str:
    """How many images of a class were taken, in words."""
    counts = dict.fromkeys((sample["label"] for sample in dicts), 0)
    for sample in taken:
        counts[sample["label"]] += 1
    least, most = min(counts.values()), max(counts.values())
    return f"; {least}{f' to {most}' * (most > least)} per class of {len(counts)}"
