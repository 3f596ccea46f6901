"""What class numbers mean."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Classes:
    """Of each class number of a model its name and its category id in the json of ``source``, a dataset."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    source: str

    @property
    def categories(self) -> list[dict[str, Any]]:
        """As in a COCO json, in the order of their ids."""
        pairs = sorted(zip(self.category_ids, self.names, strict=True))
        return [{"id": identifier, "name": name} for identifier, name in pairs]
