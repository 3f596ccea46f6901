"""The input images of `rmae-d2 predict` and the names of their results."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..annotations.formats.addresses import FILE_EXTENSIONS, address_of
from ..errors import AnnotationError, UserError
from ..listing import IMAGE_EXTENSIONS
from .sources import images_from


class InputImage(NamedTuple):
    """An image to predict on."""

    path: str
    image_id: Any  # the COCO json's id, or a number counted from 1
    picture: str  # name of its picture, with forward slashes; unique even ignoring case
    size: tuple[int, int] | None  # (height, width) as given in the json, if any
    own_id: bool = False  # whether image_id comes from the data set rather than from our count

    @property
    def dataset_dict(self) -> dict[str, Any]:
        """For region sources: a json of regions would mistake a number of ours for one of its image ids."""
        known = {"file_name": self.path}
        return {**known, "image_id": self.image_id} if self.own_id else known

    @property
    def label_image(self) -> str:
        """Name of its label image, in a separate folder, for models that predict labels."""
        return f"labels/{os.path.splitext(self.picture)[0]}.png"


def list_inputs(given: Sequence[str], image_root: str | None = None) -> list[InputImage]:
    """List images in a fixed order.

    Args:
        given: image files, folders, .txt lists, COCO .jsons and other data sets; see
            `sources.images_from`. A json given alone keeps its image ids; otherwise images are
            numbered from 1.
        image_root: folder of a json's images, if it cannot be found automatically.

    Raises:
        UserError: a folder or list does not exist or contains no image.
        AnnotationError: a json cannot be used.
    """
    dicts = [sample for path in given for sample in _samples(path, image_root)]
    own_ids = len(given) == 1 and address_of(given[0]).path.lower().endswith(".json")
    ids = [sample["image_id"] if own_ids else k for k, sample in enumerate(dicts, 1)]
    return [
        InputImage(
            sample["file_name"],
            identifier,
            picture,
            (sample["height"], sample["width"]) if {"height", "width"} <= sample.keys() else None,
            own_ids,
        )
        for sample, identifier, picture in zip(dicts, ids, _picture_names(dicts), strict=True)
    ]


def check_apart(
    output: Path,
    given: Sequence[str],
    images: Sequence[InputImage],
    *,
    pictures: bool,
    labels: bool = False,
) -> None:
    """Refuse an output folder in which results would overwrite inputs or later be taken for inputs."""
    written = ["predictions.json", "images.json"]
    written += [image.picture for image in images] if pictures else []
    written += [image.label_image for image in images] if labels else []
    for folder in filter(os.path.isdir, given if pictures or labels else ()):
        if output.resolve().is_relative_to(Path(folder).resolve()):
            raise UserError(
                f"--output {output} lies in --input {folder}: the images written would count as inputs of "
                "the next run; choose a folder outside of it"
            )
    inputs = {os.path.realpath(path) for path in (*given, *(image.path for image in images))}
    for name in written:
        if os.path.realpath(output / name) in inputs:
            text = "is an input and would be overwritten: choose another --output"
            raise UserError(f"{output / name} {text}")


def _samples(path: str, image_root: str | None) -> Sequence[dict[str, Any]]:
    expanded = os.path.expanduser(path)
    suffix = os.path.splitext(path)[1].lower()
    is_image = suffix in IMAGE_EXTENSIONS or (
        os.path.isfile(expanded) and suffix not in FILE_EXTENSIONS
    )
    if is_image and not os.path.isdir(expanded):
        return [{"file_name": expanded, "image_id": os.path.basename(path)}]
    try:
        # Missing files are skipped and counted like unreadable ones.
        return images_from(path, image_root, allow_missing=1.0)
    except AnnotationError:
        raise
    except UserError as error:  # pre-training has a different key for it
        text = str(error).replace("dataset.image_root=/folder", "--image-root /folder")
        raise UserError(text) from None


def _picture_names(dicts: Sequence[dict[str, Any]]) -> list[str]:
    """Paths relative to the input folder or list, ending in .jpg; duplicates are numbered: a_2.jpg."""
    names: list[str] = []
    taken: set[str] = set()
    tried: Counter[str] = Counter()
    for sample in dicts:
        stem = os.path.splitext(_relative_path(sample))[0]
        name = f"{stem}.jpg"
        while name.lower() in taken:
            tried[stem] += 1
            name = f"{stem}_{tried[stem] + 1}.jpg"
        taken.add(name.lower())
        names.append(name)
    return names


def _relative_path(sample: dict[str, Any]) -> str:
    inside = sample["image_id"]
    if isinstance(inside, str) and "://" not in inside:
        path = Path(inside)
        if not path.is_absolute() and ".." not in path.parts:
            return path.as_posix()
    return os.path.basename(sample["file_name"])
