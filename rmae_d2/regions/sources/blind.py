"""Region sources that need an image's shape alone, so that it need not be decoded for them.

Such a source says so by an attribute ``blind``; it may get, in place of an array, anything that has a shape
and becomes one by ``np.asarray``.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..record.record import EncodedRecord, RegionRecord


def is_blind(source: Callable[..., Any] | None) -> bool:
    """Whether a source looks at no pixel."""
    return bool(getattr(source, "blind", False))


def regions_of(
    source: Callable[..., Any], dataset_dict: Mapping[str, Any], image: Any
) -> RegionRecord | EncodedRecord:
    """What a source gives for an image, which is decoded only for those that look at it."""
    regions: RegionRecord | EncodedRecord = source(
        dataset_dict, image if is_blind(source) else np.asarray(image)
    )
    return regions
