"""Folders for Hugging Face ``datasets``: Parquet files with images, or images beside a metadata file.

Source: the documentation of ``datasets`` ("Create an image dataset"). ``label`` is the image's class;
``objects`` has ``bbox``, [x, y, width, height] in pixels, and ``categories``, ``category`` or ``label``.
Class names are taken from the Parquet file's schema; without it, class names and numbers are used as given.
"""

import csv
import io
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from ...errors import AnnotationError, UserError
from ...members import parquet, parquet_cell
from ..values import integer, parsed, shown
from .addresses import split_folders, split_named, splits_in
from .content import Broken, Content, Entry, Sources, image_sizes, sized

LOOKED_FOR_PARQUET = "*.parquet with a column of images, in it, in data/ or in folders of splits"
LOOKED_FOR_METADATA = (
    "metadata.jsonl, .csv or .parquet with file_name, in it or in folders of splits"
)

_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_CLASSES = ("categories", "category", "labels", "label")
_COLUMNS = ("objects", "width", "height", *_CLASSES)
_SHARD = re.compile(r"^(.+?)-\d{5}-of-\d{5}")


class _Row(NamedTuple):
    name: str  # the image's id
    file: str  # where the image is
    values: Mapping[str, Any]
    chosen: bool  # whether it belongs to the requested split


# ---------------------------------------------------------------------------------- Parquet


def why_parquet(path: str) -> str:
    """What identifies a folder or file as this format; "" if it is not."""
    name = next((name for names in _tables(path).values() for name in names), "")
    try:
        return name if name and _image_column(_schema(os.path.join(path, name))) else ""
    except UserError as error:  # cannot tell without pyarrow
        return f"{name}, ({error})"


def splits_parquet(path: str) -> list[str]:
    """Names of the splits, from the names of files or their folders."""
    return list(_tables(path))


def read_parquet(path: str, split: str | None, images_only: bool) -> Content:
    """Read a data set, or a split of one.

    Raises:
        AnnotationError: a file has no image column, or is damaged.
        UserError: there is no such split, or pyarrow is missing.
    """
    tables = _tables(path)
    if split is not None and split_named(split) not in tables:
        raise UserError(f"{path} has no split {split}: it has {', '.join(tables) or 'none'}")
    sources = Sources(path)
    rows: list[_Row] = []
    names: list[str] = []
    for part, members in tables.items():
        chosen = split is None or part == split_named(split)
        for name in members if chosen or not images_only else ():
            file = os.path.join(path, name) if os.path.isdir(path) else path
            schema = _schema(file)
            image = _image_column(schema)
            if image is None:
                raise AnnotationError(f"{file} has no column of images: it has {schema.names}")
            names = names or _class_names(schema)
            columns = [column for column in schema.names if column in _COLUMNS]
            values = _values(file, [] if images_only else columns)
            sources.add(file, json.dumps(values, default=str).encode())
            rows += [
                _Row(f"{name}/{k}", parquet_cell(file, k, image), row, chosen)
                for k, row in enumerate(values)
            ]
    return _content(sources, rows, names, images_only)


def _tables(path: str) -> dict[str, list[str]]:
    """The files of each split, as sorted relative paths; "all" for files that name no split."""
    if not os.path.isdir(path):
        return {"all": [os.path.basename(path)]} if path.lower().endswith(".parquet") else {}
    found: dict[str, list[str]] = {}
    for folder in ("", "data", "default"):
        place = os.path.join(path, folder)
        parts = split_folders(place).values() if os.path.isdir(place) else ()
        for inside in (folder, *(os.path.join(folder, part) for part in parts)):
            for name in _files_in(os.path.join(path, inside)):
                if name.lower().endswith(".parquet") and name not in _METADATA:
                    file = PurePath(inside, name)
                    found.setdefault(_split_of(file), []).append(file.as_posix())
    return found


def _files_in(path: str) -> list[str]:
    if not os.path.isdir(path):
        return []
    return sorted(entry.name for entry in os.scandir(path) if entry.is_file())


def _split_of(name: PurePath) -> str:
    """A file's split: train for train-00000-of-00002-abc.parquet, train.parquet and train/0000.parquet."""
    match = _SHARD.match(name.name)
    stem = split_named(match[1] if match else name.stem)
    parts = splits_in([stem, *name.parts[:-1]])
    return next(iter(parts), stem if match else "all")


def _schema(file: str) -> Any:
    try:
        return parquet().read_schema(file)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise AnnotationError(
            f"{file} is not a complete Parquet table ({error}): copy it again"
        ) from error


def _values(file: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of some columns; without columns, the right number of empty rows."""
    table = parquet().ParquetFile(file)
    if not columns:
        return [{} for _ in range(table.metadata.num_rows)]
    rows: list[dict[str, Any]] = table.read(columns=list(columns), use_threads=False).to_pylist()
    return rows


def _features(schema: Any) -> Mapping[str, Any]:
    """The description of the columns by ``datasets``."""
    raw = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(raw)["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _image_column(schema: Any) -> str | None:
    """The image column: as declared in the schema, or a struct with ``bytes``."""
    for name, feature in _features(schema).items():
        if isinstance(feature, dict) and feature.get("_type") == "Image":
            return str(name)
    for field in schema:
        fields = [field.type.field(k).name for k in range(field.type.num_fields)]
        if "bytes" in fields:
            return str(field.name)
    return None


def _class_names(feature: Any) -> list[str]:
    """The names of the first ClassLabel anywhere in a description of columns."""
    if hasattr(feature, "metadata"):
        feature = _features(feature)
    if isinstance(feature, dict):
        if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list):
            return [str(name) for name in feature["names"]]
        return next(filter(None, map(_class_names, feature.values())), [])
    if isinstance(feature, list):
        return next(filter(None, map(_class_names, feature)), [])
    return []


# ---------------------------------------------------------------------------------- imagefolder


def why_metadata(path: str) -> str:
    """What identifies a folder as this format; "" if it is not."""
    if not os.path.isdir(path):
        return ""
    return next((name for names in _metadata(path).values() for name in names), "")


def splits_metadata(path: str) -> list[str]:
    """Names of the splits that have a folder with a metadata file."""
    return [split for split in _metadata(path) if split != "all"]


def read_metadata(path: str, split: str | None, images_only: bool) -> Content:
    """Read a data set, or a split of one.

    Raises:
        AnnotationError: a metadata file has no file names, or cannot be read.
        UserError: there is no such split, or pyarrow is missing.
    """
    files = _metadata(path)
    if split is not None and split_named(split) not in files:
        raise UserError(f"{path} has no split {split}: it has {', '.join(files)}")
    sources, rows = Sources(path), []
    for part, names in files.items():
        chosen = split is None or part == split_named(split)
        for name in names if chosen or not images_only else ():
            file = os.path.join(path, name)
            for row in _metadata_rows(sources, file):
                said = row.get("file_name")
                if not isinstance(said, str) or not said:
                    raise AnnotationError(f"{file} has a row without file_name: {shown(row)}")
                image = os.path.normpath(os.path.join(os.path.dirname(file), said))
                rows.append(_Row(sources.name(image), image, row, chosen))
    return _content(sources, rows, [], images_only)


def _metadata(path: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for split, folder in {"all": "", **split_folders(path)}.items():
        for name in _METADATA:
            if os.path.isfile(os.path.join(path, folder, name)):
                found.setdefault(split, []).append(os.path.join(folder, name))
    return found


def _metadata_rows(sources: Sources, file: str) -> list[dict[str, Any]]:
    if file.endswith(".parquet"):
        columns = _schema(file).names
        sources.raw(file)
        return _values(file, columns)
    text = sources.text(file)
    if file.endswith(".csv"):
        return [dict(row) for row in csv.DictReader(io.StringIO(text, newline=""))]
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise AnnotationError(f"{file}, line {number}, is not JSON ({error})") from error
            if not isinstance(row, dict):
                raise AnnotationError(f"{file}, line {number}, is {shown(row)}, no object")
            rows.append(row)
    return rows


# ---------------------------------------------------------------------------------- both


def _content(
    sources: Sources, rows: Sequence[_Row], names: Sequence[str], images_only: bool
) -> Content:
    """The content of the chosen rows; classes come from all rows, so that all splits number them alike."""
    chosen = [row for row in rows if row.chosen]
    if images_only:
        return Content(sources, (), map(_image, chosen), ())
    boxed = any(row.values.get("objects") is not None for row in rows)
    found = [(row, list(_objects(row) if boxed else _label(row))) for row in rows]
    classes = {entry.get("category_id") for _, entries in found for entry in entries} - {None}
    numbers = _numbers(classes, names)
    images = [_image(row) for row in chosen]
    if boxed:
        unsized = [k for k, image in enumerate(images) if image.get("height") is None]
        sizes = image_sizes([chosen[k].file for k in unsized])
        for k, size in zip(unsized, sizes, strict=True):
            images[k] = sized(images[k], size)
    return Content(
        sources,
        ({"id": number, "name": name} for number, name in sorted(set(numbers.values()))),
        images,
        (
            entry if isinstance(entry, Broken) else _numbered(entry, numbers)
            for row, entries in found
            if row.chosen
            for entry in entries
        ),
    )


def _image(row: _Row) -> Entry:
    """An image entry; a width and height given in the row are trusted."""
    given = {key: row.values[key] for key in ("height", "width") if row.values.get(key) is not None}
    place = row.file if "://" in row.file else row.name
    return {"id": row.name, "file_name": place, **(given if len(given) == 2 else {})}


def _label(row: _Row) -> Iterator[Entry]:
    value = next((row.values[key] for key in _CLASSES if row.values.get(key) is not None), None)
    if value is not None and value != "":
        yield {"id": row.name, "image_id": row.name, "category_id": _class(value)}


def _objects(row: _Row) -> Iterator[Entry]:
    """Objects as a dict of lists or a list of dicts; in a csv, as JSON text."""
    objects = parsed(row.values.get("objects"))
    if isinstance(objects, list) and all(isinstance(each, dict) for each in objects):
        listed = objects
    elif isinstance(objects, dict) and all(isinstance(v, list) for v in objects.values()):
        if len({len(values) for values in objects.values()}) > 1:
            lengths = {key: len(values) for key, values in objects.items()}
            yield Broken(row.name, "objects", f"has lists of several lengths, {shown(lengths)}")
            return
        listed = [
            dict(zip(objects, values, strict=True))
            for values in zip(*objects.values(), strict=True)
        ]
    elif objects is None:
        return
    else:
        yield Broken(row.name, "objects", f"is {shown(objects)}, no lists of bbox and category")
        return
    for k, each in enumerate(listed, 1):
        value = next((each[key] for key in _CLASSES if each.get(key) is not None), None)
        known = {key: each[key] for key in ("area", "iscrowd") if each.get(key) is not None}
        place = {"id": f"{row.name}:{k}", "image_id": row.name, "bbox": each.get("bbox")}
        yield {**place, **known, "category_id": None if value is None else _class(value)}


def _class(value: Any) -> Any:
    """An integer, or the text if it is not one."""
    try:
        return integer(value)
    except ValueError:
        return str(value)


def _numbers(classes: Collection[Any], names: Sequence[str]) -> dict[Any, tuple[int, str]]:
    """Map each class as written to its number and name: from the names, from integers as given, or sorted."""
    if names:
        pairs = list(enumerate(names))
        return {**{k: (k, name) for k, name in pairs}, **{name: (k, name) for k, name in pairs}}
    if all(isinstance(each, int) for each in classes):
        return {each: (each, str(each)) for each in classes}
    return {each: (k, str(each)) for k, each in enumerate(sorted(classes, key=str))}


def _numbered(entry: Entry, numbers: Mapping[Any, tuple[int, str]]) -> Entry:
    number, _ = numbers.get(entry["category_id"], (entry["category_id"], ""))
    return {**entry, "category_id": number}
