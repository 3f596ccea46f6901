"""Few labels: select a fraction of a data set's images, the same on every machine and in every process."""

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
    """Keep a fraction of the images, selected by the SHA-256 of seed and image id.

    The selection depends only on ids, seed and fraction, not on the location or order of files. A larger
    fraction with the same seed includes a smaller one's images. An id that is the file's path is taken
    relative to the folder common to all images.

    Args:
        dicts: dataset dicts with an ``image_id``, and a ``label`` if ``per_class``.
        fraction: in (0, 1]; None for all images.
        seed: another seed gives another selection.
        source: name of the data, for the log and messages.
        per_class: keep round(fraction * its images), and at least one image, of each class; otherwise
            round(fraction * all images), whatever they show.

    Returns:
        the images kept, in the original order.

    Raises:
        UserError: the fraction is out of range, or keeps no image.
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
    """Names that identify the images, the same on every machine."""
    files = [str(sample["file_name"]) for sample in dicts]
    ids = [str(sample.get("image_id", file)) for sample, file in zip(dicts, files, strict=True)]
    folders = [
        os.path.dirname(file) + "/" for name, file in zip(ids, files, strict=True) if name == file
    ]
    common = len(os.path.commonprefix(folders).rpartition("/")[0])
    return [name[common:] if name == file else name for name, file in zip(ids, files, strict=True)]


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()


def _spread(dicts: _Dicts, taken: _Dicts) -> str:
    """Describe how many images per class were taken."""
    counts = dict.fromkeys((sample["label"] for sample in dicts), 0)
    for sample in taken:
        counts[sample["label"]] += 1
    least, most = min(counts.values()), max(counts.values())
    return f"; {least}{f' to {most}' * (most > least)} per class of {len(counts)}"
