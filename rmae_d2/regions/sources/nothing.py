"""No regions: for images packed without them."""

from collections.abc import Mapping
from typing import Any

from ..store.shards import NO_REGIONS


class NoRegions:
    """Takes the source's place in a manifest; it is never asked for regions."""

    params: Mapping[str, Any] = NO_REGIONS

    def __call__(self, dataset_dict: Mapping[str, Any], image_HWC: Any) -> None:
        """None."""
