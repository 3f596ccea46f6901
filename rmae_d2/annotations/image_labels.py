"""Labels that give each image a single class, such as iNaturalist's or those of shards."""

from functools import lru_cache
from typing import Any, NamedTuple

from .coco import FORGETTING, joined, located, stamp_of
from .entries import Category, Image, Unreadable, key_of, label_of
from .reader import Reader
from .values import integer, shown


class ImageLabels(NamedTuple):
    """The result of `read_image_labels`."""

    categories: tuple[Category, ...]  #: sorted by id, which determines the class indices
    images: list[tuple[Image, int]]  #: each with its class index, in the file's order


def read_image_labels(path: str, name: str | None = None) -> ImageLabels:
    """Read and validate image labels; cached as long as the files do not change.

    For formats other than COCO's, ``file_name`` is the image's path.

    Images without a class are left out with a warning, like all problems. Their sizes are not needed. Boxes
    are ignored: several of one class count as one label.

    Arguments and errors are those of `read_annotations`; AnnotationError also for an image with two classes.
    """
    path = located(path, name)
    return _read(path, stamp_of(path))


@lru_cache(maxsize=4)
def _read(path: str, stamp: tuple[int, int] | None) -> ImageLabels:
    reader = _LabelReader(path)
    reader.read_all()
    reader.check()
    if not reader.classes or not reader.categories:
        lacking = (
            "'categories'" if reader.classes else "'annotations', as those of test images have"
        )
        raise reader.error(
            f"gives no image a class: it has no {lacking}. Give training or validation"
        )
    categories = tuple(sorted(reader.categories.values(), key=lambda c: c.id))
    numbers = {category.id: number for number, category in enumerate(categories)}
    labelled = []
    for key, image in reader.images.items():
        if key in reader.classes:
            if reader.folder is not None:
                image = image._replace(file_name=joined(reader.folder, image.file_name))
            labelled.append((image, numbers[reader.classes[key]]))
        else:
            reader.note(image.id, "images without a class, left out")
    reader.log_notes()
    return ImageLabels(categories, labelled)


FORGETTING.append(_read.cache_clear)


class _LabelReader(Reader):
    needs_sizes = False

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.classes: dict[Any, int] = {}  # category ids, by key_of the image's id

    def _annotation(self, entry: dict[str, Any], place: int) -> Unreadable | None:
        label = label_of("annotations", entry, place)
        try:
            image = self._image_of(entry, entry.get("id", f"entry {place}"))
        except ValueError as error:
            return Unreadable("image_id", str(error))
        try:
            category = integer(entry.get("category_id"))
        except ValueError as error:
            return Unreadable("category_id", str(error))
        if image is None:
            return None
        self._first_use.setdefault(category, f"{category} of {label}")
        before = self.classes.setdefault(key_of(image.id), category)
        if before != category:
            raise self.error(
                f"has two classes for image {shown(image.id)}, {before} and, in {label}, {category}: a "
                "classifier learns one of each image. Take one of them out"
            )
        return None
