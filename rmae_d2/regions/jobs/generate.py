"""Making a region store, shard by shard, and verifying what was made.

`generate_shard(manifest, i, ...)` is what every engine runs: local processes, a task of a Slurm
array, a Ray cluster. It is a pure function of the manifest and the image files, and may be killed
and repeated anywhere, any number of times. Beside the files of `manifest.py` and `shards.py` lies

    failures-00042.json    only where images of a shard gave no record: file and reason
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import StoreError, UserError
from ...files import NotAFileError, atomic_file, check_file
from ..record.record import EncodedRecord, RegionRecord
from ..store.shards import (
    BLOCK,
    ShardIndex,
    ShardWriter,
    check_same,
    digest,
    empty_folder,
    encode_index,
    global_header,
    member_header,
    read_index,
    shard_files,
)
from ..store.store import digest_file
from .manifest import Manifest, describe_difference, describe_trouble

#: From a file's path to its image, uint8 (H, W, C). Raises OSError or MemoryError for trouble of the
#: machine and anything else for a file that is no image (as `rmae_d2.data.read_image`).
ReadImage = Callable[[str], NDArray[np.uint8]]
#: Called once an image, with the bytes of its record, 0 for a failure.
Report = Callable[[int], None]

#: What a source raises for one image that it cannot do; all else is trouble of machine or source.
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
    """Make one shard of a store; returns its failures. The same bytes whoever runs it.

    An image that cannot be read, or that the source refuses with a ValueError, LookupError,
    ArithmeticError or FileNotFoundError, is recorded in the shard's failures file. UserError: trouble
    of the machine (disk full, out of memory) or of the source; nothing of the shard is left.
    """
    source = _source_of(manifest)
    failures = []
    with ShardWriter(folder, number, manifest.header) as writer:
        for image_id, name in manifest.part(number).images:
            path = manifest.path(name)
            try:
                data = _make_record(source, path, image_id, read_image)
                writer.add(str(image_id), data, digest_file(path))
            except _BadImageError as error:
                failures.append(Failure(str(image_id), name, str(error)))
                data = b""
            except (OSError, MemoryError) as error:
                where = getattr(error, "filename", None) or folder
                raise UserError(
                    f"shard {number} stopped at {where}: {describe_trouble(error)}"
                ) from error
            report(len(data))
        # Before the shard appears: a whole shard always has its failures beside it.
        _write_failures(Path(folder, failures_name(number)), failures)
    return tuple(failures)


def failures_name(number: int) -> str:
    """Name of a shard's failures file."""
    return f"failures-{number:05d}.json"


def read_failures(folder: str | os.PathLike[str], number: int) -> tuple[Failure, ...]:
    """The failures of a shard, none where it has no such file; UserError where it is damaged."""
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
        raise UserError(f"{path} is no list of failures ({error!s:.200}): delete it") from error


@dataclass(frozen=True)
class Problem:
    """Something in a store that is not as it should be."""

    shard: int
    what: str  # is wrong, naming key and file where it is about one image


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
    try:
        index = read_index(idx, number)
        check_same(manifest.header, index.header, idx)
        if Path(idx).read_bytes() != encode_index(index, number):
            raise StoreError(f"{idx} is damaged outside of its arrays")
        check_file(tar)
        data = Path(tar).read_bytes()
        if data != _rebuilt(data, index, number):
            raise StoreError(f"{tar} is damaged outside of its records")
        failed = {failure.key for failure in read_failures(folder, number)}
        found = list(index.keys())
        expected = [str(id_) for id_, _ in part.images if str(id_) not in failed]
        if found != expected:
            odd = sorted(set(found) ^ set(expected)) or ["all, in another order"]
            raise StoreError(f"{idx} has other images than the manifest: {', '.join(odd[:5])}")
    except FileNotFoundError as error:
        return (Problem(number, f"{error.filename} is missing"),)
    except NotAFileError as error:
        return (Problem(number, f"{error.filename}: {error.strerror}"),)
    except (StoreError, UserError) as error:
        return (Problem(number, str(error)),)
    except (OSError, MemoryError) as error:
        raise UserError(f"{tar} cannot be read: {describe_trouble(error)}") from error
    names = {str(image_id): name for image_id, name in part.images}
    problems = []
    for row, key in enumerate(found):
        start, size = int(index.offsets[row]), int(index.sizes[row])
        record = data[start : start + size]
        path = manifest.path(names[key])
        if digest(record) != index.record_digests[row].tobytes():
            what: str | None = f"its bytes in {tar} do not match their digest"
        else:
            what = _check_record(record, path, index.image_digests[row].tobytes(), read_image)
        if what:
            problems.append(Problem(number, f"{key} ({path}): {what}"))
        report(size)
    return tuple(problems)


def _rebuilt(data: bytes, index: ShardIndex, number: int) -> bytes:
    """The tar as a `ShardWriter` makes it of the records in it."""
    pieces = [global_header(index.header.to_json(number))]
    rows = zip(index.keys(), index.offsets.tolist(), index.sizes.tolist(), strict=True)
    for key, start, size in rows:
        pieces += (member_header(key, size), data[start : start + size], bytes(-size % BLOCK))
    return b"".join(pieces) + (b"" if len(index) else empty_folder()) + bytes(2 * BLOCK)


def _check_record(
    record: bytes, path: str, image_digest: bytes, read_image: ReadImage
) -> str | None:
    """What is wrong with a record or its image, None where all is well."""
    try:
        size = RegionRecord.from_bytes(record).size
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
    if image.shape[:2] != size:
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
    """An image gives no record; the text is the reason."""


def _make_record(
    source: Callable[..., Any], path: str, image_id: int | str, read_image: ReadImage
) -> bytes:
    try:
        image = read_image(path)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise _BadImageError(_reason(error)) from error
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
    """The text of an error, without what changes from run to run."""
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
