"""The meaning of class indices."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Classes:
    """The name and category id, in the json of the dataset ``source``, of each of a model's class indices."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    source: str

    @property
    def categories(self) -> list[dict[str, Any]]:
        """Categories as in a COCO json, sorted by id."""
        pairs = sorted(zip(self.category_ids, self.names, strict=True))
        return [{"id": identifier, "name": name} for identifier, name in pairs]
