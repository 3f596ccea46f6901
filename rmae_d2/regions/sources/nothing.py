"""No regions: of images that are packed without."""

from collections.abc import Mapping
from typing import Any

from ..store.shards import NO_REGIONS


class NoRegions:
    """Stands in a manifest for the source; nobody asks it for regions."""

    params: Mapping[str, Any] = NO_REGIONS

    def __call__(self, dataset_dict: Mapping[str, Any], image_HWC: Any) -> None:
        """None."""
