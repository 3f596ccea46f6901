"""Make a region store, shard by shard, and verify the result.

`generate_shard(manifest, i, ...)` is what every engine runs: local processes, a task in a Slurm array, a Ray
cluster. It is a pure function of the manifest and the image files, and may be killed and repeated anywhere,
any number of times. In addition to the files of `manifest.py` and `shards.py` there is

    failures-00042.json    only if images of a shard gave no record: file and reason
"""

import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import StoreError, UserError
from ...files import NotAFileError, atomic_file, check_file
from ...listing import is_image
from ...members import tar_member
from ...packed import shard_files
from ...pixels import open_image
from ..record.record import EncodedRecord, RegionRecord
from ..store.shards import (
    NO_REGIONS,
    ImageFile,
    ShardIndex,
    ShardWriter,
    check_same,
    digest,
    encode_index,
    layout,
    read_index,
)
from ..store.store import digest_file, read_file
from .manifest import Manifest, describe_difference, describe_trouble

#: Maps a file's path to its image, uint8 (H, W, C). Raises OSError or MemoryError for problems of the
#: machine and anything else for a file that is not an image (as `rmae_d2.data.read_image` does).
ReadImage = Callable[[str], NDArray[np.uint8]]
#: Called once per image, with the size of its record in bytes, 0 for a failure.
Report = Callable[[int], None]

#: What a source raises for an image that it cannot process; all else is a problem of machine or source.
_IMAGE_ERRORS = (ValueError, LookupError, ArithmeticError, FileNotFoundError)


@dataclass(frozen=True)
class Failure:
    """An image without a record."""

    key: str  # of the image in the store
    file: str  # its name, relative to the manifest's root
    reason: str  # what is wrong with it


def generate_shard(
    manifest: Manifest,
    number: int,
    folder: str | os.PathLike[str],
    read_image: ReadImage,
    report: Report = lambda num_bytes: None,
) -> tuple[Failure, ...]:
    """Make one shard of a store. The result is the same bytes, whoever runs it.

    An image that cannot be read, or that the source refuses with a ValueError, LookupError,
    ArithmeticError or FileNotFoundError, is recorded in the shard's failures file; if only the source
    refuses it, it is packed nevertheless.

    Returns:
        the shard's failures.

    Raises:
        UserError: a problem of the machine (disk full, out of memory) or of the source; nothing of the shard
            is left.
    """
    source = None if manifest.params == NO_REGIONS else _source_of(manifest)
    failures = []
    with ShardWriter(folder, number, manifest.header, manifest.packed) as writer:
        for image_id, name in manifest.part(number).images:
            path = manifest.path(name)
            try:
                num_bytes, refused = _add(
                    writer, source, path, image_id, read_image, packed=manifest.packed
                )
            except (OSError, MemoryError) as error:
                where = getattr(error, "filename", None) or folder
                raise UserError(
                    f"shard {number} stopped at {where}: {describe_trouble(error)}"
                ) from error
            if refused:
                failures.append(Failure(str(image_id), name, refused))
            report(num_bytes)
        # Before the shard appears, so that a complete shard always has its failures beside it.
        _write_failures(Path(folder, failures_name(number)), failures)
    return tuple(failures)


def _add(
    writer: ShardWriter,
    source: Callable[..., Any] | None,
    path: str,
    image_id: int | str,
    read_image: ReadImage,
    *,
    packed: bool,
) -> tuple[int, str]:
    """Add an image's record, and the image to a packed shard; return byte count and reason for no record."""
    image, record, refused = None, b"", ""
    try:
        image = _read(path, read_image)
        record = _make_record(source, path, image_id, image) if source else b""
    except _BadImageError as error:
        refused = str(error)
    if image is None or (refused and not packed):
        return 0, refused
    content = read_file(path)
    file = None
    if packed:
        extension = _extension(path, content)
        file = ImageFile(content, extension, image.shape[:2], isinstance(image_id, int))
    writer.add(str(image_id), record, digest(content), file)
    return 0 if refused else len(record) + packed * len(content), refused


def _extension(path: str, content: bytes) -> str:
    """The file extension from which tar readers recognize an image's format."""
    if is_image(path):
        return os.path.splitext(path)[1][1:].lower()
    try:
        with open_image(io.BytesIO(content)) as image:
            name = (image.format or "img").lower()
    except OSError:
        name = "tiff"  # some of which Pillow does not know
    return {"jpeg": "jpg", "mpo": "jpg", "jpeg2000": "jp2"}.get(name, name[:4])


def failures_name(number: int) -> str:
    """Name of a shard's failures file."""
    return f"failures-{number:05d}.json"


def read_failures(folder: str | os.PathLike[str], number: int) -> tuple[Failure, ...]:
    """The failures of a shard, none if it has no such file; UserError if the file is damaged."""
    path = Path(folder, failures_name(number))
    try:
        check_file(path)
        entries = [Failure(**entry) for entry in json.loads(path.read_bytes())]
        if not all(isinstance(text, str) for entry in entries for text in vars(entry).values()):
            raise TypeError("not all values are texts")
        return tuple(entries)
    except FileNotFoundError:
        return ()
    except (ValueError, TypeError, RecursionError, NotAFileError) as error:
        raise UserError(f"{path} is not a list of failures ({error!s:.200}): delete it") from error


@dataclass(frozen=True)
class Problem:
    """A defect in a store."""

    shard: int
    what: str  # what is wrong; names key and file if it concerns one image


def verify_shard(
    manifest: Manifest,
    number: int,
    folder: str | os.PathLike[str],
    read_image: ReadImage,
    report: Report = lambda num_bytes: None,
) -> tuple[Problem, ...]:
    """Check every byte of a shard, every record, and each against its image; see `generate_shard`."""
    part = manifest.part(number)
    tar, idx = (os.path.join(folder, name) for name in shard_files(number))
    names = {str(image_id): name for image_id, name in part.images}
    problems = []
    try:
        index = _checked_index(part, number, folder)
        check_file(tar)
        with open(tar, "rb") as file:
            contents = _contents(file, index, number)
            for row, (key, held) in enumerate(zip(index.keys(), index.has_record, strict=True)):
                image = next(contents) if index.images else None
                record = next(contents) if held else (int(index.offsets[row]), b"")
                path = manifest.path(names[key])
                what = _check_row(index, row, image, record, tar, path, read_image)
                if what:
                    problems.append(Problem(number, f"{key} ({path}): {what}"))
                report(int(index.sizes[row]))
            next(contents, None)  # the end of the tar
    except FileNotFoundError as error:
        problems.append(Problem(number, f"{error.filename} is missing"))
    except NotAFileError as error:
        problems.append(Problem(number, f"{error.filename}: {error.strerror}"))
    except StoreError as error:
        problems.append(Problem(number, str(error)))
    except (OSError, MemoryError) as error:
        raise UserError(f"{tar} cannot be read: {describe_trouble(error)}") from error
    return tuple(problems)


def _checked_index(part: Manifest, number: int, folder: str | os.PathLike[str]) -> ShardIndex:
    """A shard's index; StoreError if it is damaged or not for the manifest's images."""
    idx = os.path.join(folder, shard_files(number)[1])
    index = read_index(idx, number)
    check_same(part.header, index.header, idx)
    if Path(idx).read_bytes() != encode_index(index, number):
        raise StoreError(f"{idx} is damaged outside of its arrays")
    try:
        failed = {failure.key for failure in read_failures(folder, number)}
    except UserError as error:
        raise StoreError(str(error)) from error
    found = list(index.keys())
    whole = found if part.params == NO_REGIONS else list(compress(found, index.has_record))
    ids = [str(id_) for id_, _ in part.images]
    expected = [id_ for id_ in ids if id_ not in failed]
    there = {*found}
    if whole != expected or found != [id_ for id_ in ids if id_ in there]:
        odd = sorted({*whole} ^ {*expected}) or ["all, in another order"]
        raise StoreError(f"{idx} has other images than the manifest: {', '.join(odd[:5])}")
    return index


def _contents(file: IO[bytes], index: ShardIndex, number: int) -> Iterator[tuple[int, bytes]]:
    """Yield start and content of a tar's members; StoreError: it is not as a `ShardWriter` makes it."""
    for before, size in layout(index, number):
        if file.read(len(before)) != before:
            raise StoreError(f"{file.name} is damaged outside of its records")
        yield file.tell(), file.read(size)
    if file.read(1):
        raise StoreError(f"{file.name} is damaged outside of its records")


def _check_row(
    index: ShardIndex,
    row: int,
    image: tuple[int, bytes] | None,
    record: tuple[int, bytes],
    tar: str,
    path: str,
    read_image: ReadImage,
) -> str | None:
    """What is wrong with an image, its record or their positions in a tar; None if everything is correct."""
    image_digest = index.image_digests[row].tobytes()
    if image and index.images:
        place, content = image
        if place != index.images.image_offsets[row] or digest(content) != image_digest:
            return f"the image's bytes in {tar} do not match their digest"
        path = tar_member(tar, place, len(content))
    place, data = record
    if place != index.offsets[row] or digest(data) != index.record_digests[row].tobytes():
        return f"its bytes in {tar} do not match their digest"
    return _check_record(data, path, image_digest, read_image)


def _check_record(
    record: bytes, path: str, image_digest: bytes, read_image: ReadImage
) -> str | None:
    """What is wrong with an image or its record, if there is one; None if everything is correct."""
    try:
        size = RegionRecord.from_bytes(record).size if record else None
    except StoreError as error:
        return f"its record cannot be read: {error}"
    try:
        if digest_file(path) != image_digest:
            return "the image has changed since its regions were made"
        image = read_image(path)
    except FileNotFoundError:
        return "there is no such image"
    except NotAFileError as error:
        return str(error.strerror)
    except (OSError, MemoryError) as error:
        raise UserError(f"{path} cannot be read: {describe_trouble(error)}") from error
    except Exception as error:
        return f"the image cannot be read: {_reason(error)}"
    if size is not None and image.shape[:2] != size:
        return f"its regions are {size} pixels (height, width), the image is {image.shape[:2]}"
    return None


def _source_of(manifest: Manifest) -> Callable[..., Any]:
    """The manifest's source, which must be the same here as where the manifest was made."""
    here = manifest.source.params()
    if here != manifest.params:
        raise UserError(
            f"the source {manifest.source.target} is another here than in the manifest: "
            f"{describe_difference(manifest.params, here)}; install the same packages"
        )
    return manifest.source.build()


class _BadImageError(Exception):
    """An image that gives no record; the text is the reason."""


def _read(path: str, read_image: ReadImage) -> NDArray[np.uint8]:
    try:
        return read_image(path)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise _BadImageError(_reason(error)) from error


def _make_record(
    source: Callable[..., Any], path: str, image_id: int | str, image: NDArray[np.uint8]
) -> bytes:
    try:
        record = source({"file_name": path, "image_id": image_id}, image)
    except _IMAGE_ERRORS as error:
        raise _BadImageError(_reason(error)) from error
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise UserError(
            f"the source failed at {path}: {type(error).__name__}: {error}. If only this image is "
            "to blame, raise ValueError instead, or take it out of the data set"
        ) from error
    if not isinstance(record, RegionRecord | EncodedRecord):
        raise UserError(
            f"the source returned {type(record).__name__} for {path}, it must return a RegionRecord"
        )
    if record.size != image.shape[:2]:
        raise _BadImageError(
            f"its regions are {record.size} pixels (height, width), the image is {image.shape[:2]}"
        )
    return record.data if isinstance(record, EncodedRecord) else record.to_bytes()


def _reason(error: Exception) -> str:
    """The text of an error, without parts that change from run to run."""
    text = getattr(error, "reason", None)
    text = text if isinstance(text, str) else f"{type(error).__name__}: {error}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _write_failures(path: Path, failures: Sequence[Failure]) -> None:
    try:
        check_file(path)
    except NotAFileError as error:
        raise UserError(f"{path}: {error.strerror}: remove it") from error
    if not failures:
        path.unlink(missing_ok=True)
        return
    with atomic_file(path) as file:
        file.write((json.dumps([vars(f) for f in failures], indent=1) + "\n").encode())
