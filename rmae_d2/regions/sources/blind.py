"""Region sources that need only an image's shape, so that the image need not be decoded for them.

Such a source declares this with an attribute ``blind``; instead of an array, it may receive anything that has
a shape and can be converted by ``np.asarray``.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..record.record import EncodedRecord, RegionRecord


def is_blind(source: Callable[..., Any] | None) -> bool:
    """Whether a source looks at no pixels."""
    return bool(getattr(source, "blind", False))


def regions_of(
    source: Callable[..., Any], dataset_dict: Mapping[str, Any], image: Any
) -> RegionRecord | EncodedRecord:
    """Get a source's regions for an image, which is decoded only for sources that look at it."""
    regions: RegionRecord | EncodedRecord = source(
        dataset_dict, image if is_blind(source) else np.asarray(image)
    )
    return regions
