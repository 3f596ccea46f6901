"""YOLO's label files, one per image: boxes and polygons as fractions of the image's sides.

Source: Ultralytics' and Darknet's documentation. The images are located through a ``data.yaml`` (``path``,
``train``, ``val``, ``test``, ``names``, ``nc``, ``kpt_shape``), Darknet's ``obj.data``, or Label Studio's
``classes.txt`` beside ``images`` and ``labels``.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import yaml

from ...errors import AnnotationError, UserError, examples
from ...files import read_text
from ...listing import files_below
from ..values import integer, number, shown
from .addresses import split_named
from .content import Broken, Content, Entry, Sources, image_sizes, sized

LOOKED_FOR = (
    "data.yaml with names and train or val, Darknet's obj.data, or classes.txt beside labels/"
)

_SPLITS = ("train", "val", "test")
_YAML = (".yaml", ".yml")
_CLASS_LISTS = ("classes.txt", "obj.names", "_darknet.labels")
#: Fraction by which coordinates may exceed the image through rounding, as in Ultralytics.
_STRAY = 0.01


class _Layout(NamedTuple):
    file: str  # the file that describes the layout
    folder: str  # the folder that its paths are relative to
    names: Mapping[int, str]
    places: Mapping[str, Sequence[str]]  # for each split: folders and image lists, as written
    keypoints: int  # count of numbers after a box


def why(path: str) -> str:
    """What identifies a file or folder as this format; "" if it is not."""
    return os.path.basename(found) if (found := _describing(path)) else ""


def splits(path: str) -> list[str]:
    """Names of the splits that have images."""
    return list(_layout(Sources(_folder(path)), path).places)


def read(path: str, split: str | None, images_only: bool) -> Content:
    """Read a data set, or a split of one.

    Raises:
        AnnotationError: the classes are contradictory, or there is no label file at all.
        UserError: a path named by a split does not exist.
    """
    sources = Sources(_folder(path))
    layout = _layout(sources, path)
    files = _images(layout, split)
    names = {file: sources.name(file) for file in files}
    if images_only:
        return Content(sources, (), ({"id": n, "file_name": n} for n in names.values()), ())
    labels = _label_files(layout, files)
    for file in files:
        if file not in labels:
            sources.note(names[file], "images without a label file, taken as without objects")
    sizes = dict(zip(files, image_sizes(files), strict=True))
    return Content(
        sources,
        ({"id": number, "name": name} for number, name in layout.names.items()),
        (_image(names[file], size) for file, size in sizes.items()),
        (
            entry
            for file, label in labels.items()
            if (size := sizes[file]) is not None
            for entry in _annotations(sources, label, names[file], size, layout.keypoints)
        ),
    )


def _image(name: str, size: tuple[int, int] | None) -> Entry:
    if size is None:
        return Broken(name, "file", "is not an image that can be read")
    return sized({"id": name, "file_name": name}, size)


# ---------------------------------------------------------------------------------- the layout


def _describing(path: str) -> str | None:
    """The file that says which images and classes there are."""
    if not os.path.isdir(path):
        extension = os.path.splitext(path)[1].lower()
        known = extension == ".data" or (extension in _YAML and _is_data_yaml(path))
        return path if known else None
    names = sorted(entry.name for entry in os.scandir(path) if entry.is_file())
    for name in names:
        file = os.path.join(path, name)
        if name.lower().endswith(_YAML) and _is_data_yaml(file):
            return file
    for name in names:
        if name.lower().endswith(".data"):
            return os.path.join(path, name)
    beside = os.path.isdir(os.path.join(path, "labels"))
    return next((os.path.join(path, n) for n in _CLASS_LISTS if n in names and beside), None)


def _folder(path: str) -> str:
    return path if os.path.isdir(path) else os.path.dirname(path) or os.curdir


def _is_data_yaml(file: str) -> bool:
    try:
        content = yaml.safe_load(read_text(file))
    except (yaml.YAMLError, UserError, RecursionError):
        return False
    return isinstance(content, dict) and "names" in content and bool(content.keys() & set(_SPLITS))


def _layout(sources: Sources, path: str) -> _Layout:
    file = _describing(path)
    if file is None:
        raise UserError(f"{path} is not in YOLO's format: looked for {LOOKED_FOR}")
    if file.lower().endswith(_YAML):
        return _of_yaml(file, yaml.safe_load(sources.text(file)))
    folder = os.path.dirname(file) or os.curdir
    if file.lower().endswith(".data"):
        pairs = [line.partition("=") for line in sources.text(file).splitlines()]
        values = {key.strip(): value.strip() for key, _, value in pairs}
        places = {"train": "train", "val": "valid", "test": "test"}
        places = {split: values[key] for split, key in places.items() if values.get(key)}
        lists = {split: [place] for split, place in places.items()}
        listed = _resolve(folder, values.get("names", "obj.names"), file, "names")
    else:
        images = os.path.join(folder, "images")
        lists, listed = {"train": [images if os.path.isdir(images) else folder]}, file
    names = [line.strip() for line in sources.text(listed).splitlines() if line.strip()]
    return _Layout(file, folder, dict(enumerate(names)), lists, 0)


def _of_yaml(file: str, content: Mapping[str, Any]) -> _Layout:
    beside = os.path.dirname(file) or os.curdir
    said = str(content.get("path") or "")
    folder = next(
        (place for place in (os.path.join(beside, said), said) if said and os.path.isdir(place)),
        beside,
    )
    names = _names(file, content)
    places = {}
    for split in _SPLITS:
        if value := content.get(split):
            listed = value if isinstance(value, list) else [value]
            if not all(isinstance(place, str) for place in listed):
                raise AnnotationError(
                    f"{file}: {split} is {shown(value)}, not a path or a list of paths"
                )
            places[split] = listed
    return _Layout(file, folder, names, places, _keypoints(file, content))


def _names(file: str, content: Mapping[str, Any]) -> dict[int, str]:
    given = content["names"]
    try:
        pairs = given.items() if isinstance(given, dict) else enumerate(given)
        names = {integer(k): str(name) for k, name in pairs}
    except (TypeError, ValueError) as error:
        raise AnnotationError(
            f"{file}: names is {shown(given)}: it must be a list of names, or number: name ({error})"
        ) from error
    count = content.get("nc")
    if count is not None and count != len(names):
        raise AnnotationError(f"{file}: nc is {shown(count)}, and names has {len(names)}")
    return names


def _keypoints(file: str, content: Mapping[str, Any]) -> int:
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    try:
        count, dims = (integer(part) for part in shape)
    except (TypeError, ValueError) as error:
        raise AnnotationError(f"{file}: kpt_shape is {shown(shape)}, not two numbers") from error
    return count * dims


def _resolve(folder: str, place: str, file: str, key: str) -> str:
    """Resolve a path: as written, without the ``../`` of Roboflow's, or by its trailing components.

    Raises:
        UserError: there is no such file or folder.
    """
    parts = [part for part in place.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    tries = [place, *("/".join(parts[k:]) for k in range(len(parts)))]
    for tried in tries:
        if tried and os.path.exists(found := os.path.join(folder, tried)):
            return os.path.normpath(found)
    raise UserError(
        f"{file}: {key} is {shown(place)}, and there is no {os.path.abspath(os.path.join(folder, place))}: "
        "correct the path, or put the images there"
    )


def _images(layout: _Layout, split: str | None) -> list[str]:
    """The image files of a split, or of all available splits, each once."""
    if split is not None and split_named(split) not in layout.places:
        raise UserError(f"{layout.file} has no split {split}: it has {', '.join(layout.places)}")
    files: dict[str, None] = {}
    missing: UserError | None = None
    for name, places in layout.places.items():
        if split is not None and name != split_named(split):
            continue
        for place in places:
            try:
                files |= dict.fromkeys(_images_at(layout, place, name))
            except UserError as error:
                if split is not None:
                    raise
                missing = error  # e.g. test images, which are often not distributed
    if not files:
        raise missing or AnnotationError(f"{layout.file} names no image")
    return list(files)


def _images_at(layout: _Layout, place: str, split: str) -> list[str]:
    found = _resolve(layout.folder, place, layout.file, split)
    if os.path.isdir(found):
        return [os.path.join(found, name) for name in files_below(found)[0]]
    lines = [line.strip().replace("\\", "/") for line in read_text(found).splitlines()]
    above = os.path.dirname(found)
    files = []
    for line in filter(None, lines):
        tries = [os.path.normpath(os.path.join(base, line)) for base in (above, layout.folder)]
        files.append(next(filter(os.path.exists, tries), None) or _by_end(layout.folder, line))
    return files


def _by_end(folder: str, line: str) -> str:
    """Resolve another machine's path by its end, e.g. Darknet's ``data/obj_train_data/a.jpg``; else as is."""
    parts = line.strip("/").split("/")
    tries = [os.path.join(folder, *parts[k:]) for k in range(len(parts))]
    return os.path.normpath(next(filter(os.path.exists, tries), os.path.join(folder, line)))


def _label_files(layout: _Layout, images: Sequence[str]) -> dict[str, str]:
    """Map images to their label files, if any: in ``labels`` for ``images``, else beside the image."""
    there: dict[str, set[str]] = {}
    found = {}
    for image in images:
        for tried in _tried(image):
            folder, name = os.path.split(tried)
            if folder not in there:
                there[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
            if name in there[folder]:
                found[image] = tried
                break
    if not found:
        raise AnnotationError(
            f"{layout.file}: none of its {len(images)} images has a label file, such as "
            f"{examples(os.path.abspath(tried) for tried in _tried(images[0]))}"
        )
    return found


def _tried(image: str) -> Iterator[str]:
    path = PurePath(image).with_suffix(".txt")
    places = [k for k, part in enumerate(path.parts[:-1]) if part.casefold() == "images"]
    if places:
        parts = list(path.parts)
        parts[places[-1]] = "labels"
        yield str(PurePath(*parts))
    yield str(path)


# ---------------------------------------------------------------------------------- the labels


def _annotations(
    sources: Sources, label: str, image: str, size: tuple[int, int], keypoints: int
) -> Iterator[Entry]:
    """The objects in a label file, for an image of (H, W) pixels."""
    seen = set()
    name = sources.name(label)
    for row, line in enumerate(sources.text(label).splitlines(), 1):
        words = tuple(line.split())
        if not words:
            continue
        identity = f"{name}:{row}"
        if words in seen:
            sources.note(identity, "lines that stand in a label file twice, taken once")
            continue
        seen.add(words)
        try:
            yield {"id": identity, "image_id": image, **_object(words, size, keypoints)}
        except ValueError as error:
            yield Broken(identity, "line", f"{shown(line)} {error}")


def _object(words: Sequence[str], size: tuple[int, int], keypoints: int) -> dict[str, Any]:
    """Parse the class, box and mask in a line. ValueError: says what is wrong with it."""
    try:
        category, *numbers = integer(words[0]), *map(number, words[1:])
    except ValueError as error:
        raise ValueError(f"has {error}") from error
    if keypoints and len(numbers) == 4 + keypoints:
        numbers = numbers[:4]
    if len(numbers) == 5:
        raise ValueError("has six numbers: a prediction with its score? Give the labels")
    if len(numbers) < 4 or len(numbers) % 2:
        raise ValueError("is neither a class and four numbers nor a class and pairs of them")
    if len(numbers) == 4:
        x, y, width, height = numbers
        spans = (x - width / 2, y - height / 2, width, height)
    else:
        xs, ys = numbers[::2], numbers[1::2]
        spans = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    if not -_STRAY <= min(numbers) <= max(numbers) <= 1 + _STRAY:
        raise ValueError(
            "goes beyond 0 to 1: YOLO's coordinates are shares of the image's sides, not pixels"
        )
    sides = size[::-1] * (len(numbers) // 2)
    box = [share * side for share, side in zip(spans, size[::-1] * 2, strict=True)]
    polygon = [share * side for share, side in zip(numbers, sides, strict=True)]
    masks = [polygon] if len(numbers) > 4 else []
    return {"category_id": category, "bbox": box, "segmentation": masks}
