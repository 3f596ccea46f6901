"""The manifest of a region store: which source, which images, in which shards.

manifest.json is written once, before the first shard, and is the same whoever writes it.
"""

import errno
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...files import atomic_file, check_file, opened
from ..record.codec import FORMAT_VERSION
from ..sources.spec import SourceSpec
from ..store.shards import ShardHeader, digest, params_hash

MANIFEST = "manifest.json"
IMAGES_PER_SHARD = 1000
_MANIFEST_FORMAT = 1
# Files stat'ed in parallel: network storage has high latency but serves many requests at once.
_LOOKERS, _BATCH = 16, 1000


def images_per_shard(num_images: int, workers: int) -> int:
    """Number of images per shard of a new store: at most 1000, and so few that every worker gets a shard."""
    return min(IMAGES_PER_SHARD, max(1, -(-num_images // max(workers, 1))))


def starts_by_bytes(files: Sequence[str], max_bytes: int) -> list[int]:
    """The first image of each shard of a packed store: at most `max_bytes` of images per shard, or one image.

    A function of the file sizes alone; missing files count as empty, and fail when their turn comes.
    """
    batches = [files[i : i + _BATCH] for i in range(0, len(files), _BATCH)]
    starts, room, position = [0], max_bytes, 0
    with ThreadPoolExecutor(_LOOKERS) as pool:
        for sizes in pool.map(_sizes, batches):
            for size in sizes:
                if size > room and position > starts[-1]:
                    starts.append(position)
                    room = max_bytes
                room -= size
                position += 1
    return starts


def _sizes(files: Sequence[str]) -> list[int]:
    return [_size(file) for file in files]


def _size(file: str) -> int:
    try:
        if "://" not in file:
            return os.path.getsize(file)
        if file.startswith("tar://"):
            return int(file.rpartition("+")[2])
        with opened(file) as remote:
            return remote.seek(0, os.SEEK_END)
    except OSError:
        return 0


@dataclass(frozen=True)
class Manifest:
    """Everything that a store's bytes depend on, besides the bytes of the image files.

    The hash covers parameters, images and division into shards, but not `root` or arguments of the
    source that do not affect regions; so a store can be continued after its data set was moved.
    """

    source: SourceSpec
    params: Mapping[str, Any]  # of the source
    #: Of the store, or of the shard selected by `part`: (image id, file name relative to `root`).
    images: Sequence[tuple[int | str, str]]
    root: str  # folder of the files; empty if names are whole addresses
    num_images: int  # of the whole store
    #: Positions in the store of each shard's first image; a range if all shards but the last have equally
    #: many images. A packed store is divided by bytes, so its starts are a list.
    starts: Sequence[int]
    hash: str
    first: int = 0  # position in the store of the first of `images`

    @classmethod
    def create(
        cls,
        source: SourceSpec,
        dataset_dicts: Iterable[Mapping[str, Any]],
        division: int | Sequence[int] = IMAGES_PER_SHARD,
    ) -> "Manifest":
        """Create the manifest of a data set; builds the source once, for its parameters.

        Args:
            source: the region source.
            dataset_dicts: the images, with `image_id` and `file_name`.
            division: images per shard; or, for a packed store, which also contains the images, where shards
                start.

        Raises:
            UserError: there are no images, an `image_id` is duplicated or neither int nor text, the shard
                size is not positive, or the source cannot be built.
        """
        images, root = _images(dataset_dicts)
        starts = _starts(division, len(images))
        params = source.params()
        return cls(source, params, images, root, len(images), starts, _hash(params, starts, images))

    @property
    def packed(self) -> bool:
        """Whether the shards also contain the images."""
        return not isinstance(self.starts, range)

    @property
    def division(self) -> int | Sequence[int]:
        """See `create`."""
        return _division(self.starts)

    @property
    def num_shards(self) -> int:
        """Number of shards in the whole store."""
        return len(self.starts)

    @property
    def header(self) -> ShardHeader:
        """The header of each shard."""
        return ShardHeader(self.params, self.num_shards, self.hash)

    def shard_size(self, number: int) -> int:
        """Number of images in a shard."""
        if not 0 <= number < self.num_shards:
            raise IndexError(f"shard {number} of a manifest of {self.num_shards} shards")
        end = self.starts[number + 1] if number + 1 < self.num_shards else self.num_images
        return end - self.starts[number]

    def part(self, number: int) -> "Manifest":
        """The same manifest with the images of one shard only: small enough to send to workers."""
        size, first = self.shard_size(number), self.starts[number]
        images = self.images[first - self.first : first - self.first + size]
        return replace(self, images=images, first=first)

    def path(self, name: str) -> str:
        """The path of a file."""
        return os.path.join(self.root, name) if self.root else name

    def dataset_dicts(self) -> list[dict[str, Any]]:
        """Its images, in the form that `create` takes."""
        return [{"image_id": id_, "file_name": self.path(name)} for id_, name in self.images]

    def moved(self, dataset_dicts: Iterable[Mapping[str, Any]]) -> "Manifest":
        """The same manifest for the same data set elsewhere; UserError if it is another data set."""
        images, root = _images(dataset_dicts)
        hash_ = _hash(self.params, self.starts, images)
        other = replace(self, images=images, root=root, num_images=len(images), hash=hash_)
        if hash_ != self.hash:
            raise UserError(
                f"the store was made of other images: {_difference(self, other)}. Give the data "
                "set it was made of, or none to take it from where it was"
            )
        return other

    def to_text(self) -> str:
        """JSON, one image per line; the same bytes whoever writes it."""
        head = {
            "format": _MANIFEST_FORMAT,
            "source": {"target": self.source.target, "arguments": dict(self.source.arguments)},
            "params": self.params,
            "params_hash": params_hash(self.params),
            "root": self.root,
            "num_images": self.num_images,
            "shard_starts" if self.packed else "images_per_shard": self.division,
            "manifest_hash": self.hash,
        }
        text = json.dumps(head, indent=1)[:-2]  # without "\n}"
        return text + ',\n "images": [\n' + ",\n".join(map(_image_text, self.images)) + "\n]}\n"

    @classmethod
    def from_text(cls, text: str, file: str) -> "Manifest":
        """Undo `to_text`; UserError, naming `file`, if it is not a manifest, damaged or in another format."""
        try:
            content = json.loads(text)
            if content["format"] != _MANIFEST_FORMAT:
                raise UserError(
                    f"{file} is of format {content['format']}, this program reads "
                    f"{_MANIFEST_FORMAT}: go on with the version that made it, or into a new folder"
                )
            images = [
                (entry, entry) if isinstance(entry, str) else (entry[0], entry[1])
                for entry in content["images"]
            ]
            packed = "shard_starts" in content
            manifest = cls(
                SourceSpec(content["source"]["target"], content["source"]["arguments"]),
                params := content["params"],
                images,
                content["root"],
                len(images),
                starts := _starts(
                    content["shard_starts" if packed else "images_per_shard"], len(images)
                ),
                _hash(params, starts, images),
            )
            known = content["manifest_hash"]
            texts = (manifest.source.target, manifest.root, *(name for _, name in images))
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("a name that is not text")
            _check_ids(images)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise UserError(
                f"{file} is not a manifest of a region store ({error!s:.200})"
            ) from error
        if manifest.hash != known:
            raise UserError(f"{file} was changed: its contents do not match its hash")
        return manifest


def load_manifest(folder: str | os.PathLike[str]) -> Manifest | None:
    """The manifest in a store's folder, None if there is none."""
    path = Path(folder, MANIFEST)
    try:
        check_file(path)
        text = path.read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return Manifest.from_text(text, str(path))


def save_manifest(manifest: Manifest, folder: str | os.PathLike[str]) -> None:
    """Write a store's manifest unless an equal one exists; creates the folder.

    Any number of processes may do so at once: one of them writes, the others compare.

    Raises:
        UserError: the folder cannot be written to, or holds a different store; says how it differs.
    """
    path = Path(folder, MANIFEST)
    found = load_manifest(folder)
    if found is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path, replace=False) as file:
                file.write(manifest.to_text().encode("ascii"))
        except (FileExistsError, NotADirectoryError) as error:
            reason = "there is a file in place of the folder; give another --output"
            raise UserError(f"cannot write {folder}: {reason}") from error
        except OSError as error:
            raise UserError(f"cannot write {folder}: {describe_trouble(error)}") from error
        found = load_manifest(folder)
    if found is None or found.hash != manifest.hash:
        raise UserError(
            f"{folder} holds regions of something else: {_difference(found, manifest)}. Give "
            "another --output, or the options that made it; or delete it to make it anew"
        )


def describe_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The parameters that differ, with both values."""
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    return ", ".join(f"{key}={there.get(key)!r} there, {here.get(key)!r} here" for key in keys)


def describe_trouble(error: BaseException) -> str:
    """An error of the machine with its remedy."""
    remedies = {
        errno.ENOSPC: "free space there",
        errno.EDQUOT: "free space there, or raise the quota",
        errno.EMFILE: "allow more open files (ulimit -n)",
        errno.ENFILE: "close programs that hold many open files",
        errno.EROFS: "give a folder that can be written",
        errno.EACCES: "give a folder that this user may write",
        errno.ENOMEM: "use fewer workers, or a machine with more memory",
    }
    number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
    remedy = remedies.get(number or 0, "set that right")
    text = getattr(error, "strerror", None) or str(error) or "out of memory"
    return f"{text}; {remedy} and run the same command again, it goes on where it stopped"


def _images(dataset_dicts: Iterable[Mapping[str, Any]]) -> tuple[list[tuple[int | str, str]], str]:
    """Ids with names relative to a root, and the root."""
    pairs = [(d["image_id"], str(d["file_name"])) for d in dataset_dicts]
    if not pairs:
        raise UserError("the data set has no image")
    _check_ids(pairs)
    root, names = _relative([name for _, name in pairs])
    return [(image_id, name) for (image_id, _), name in zip(pairs, names, strict=True)], root


def _check_ids(pairs: Iterable[tuple[Any, str]]) -> None:
    seen: dict[str, str] = {}
    for image_id, name in pairs:
        if isinstance(image_id, bool) or not isinstance(image_id, int | str) or image_id == "":
            raise UserError(f"image_id {image_id!r} of {name} is neither text nor an int")
        if seen.setdefault(str(image_id), name) is not name:
            raise UserError(
                f"{seen[str(image_id)]} and {name} have the same image_id {image_id!r}: "
                "give each image of the data set its own"
            )


def _relative(names: Sequence[str]) -> tuple[str, list[str]]:
    """The folder common to all files, and their names relative to it."""
    if any("://" in name for name in names):
        return "", list(names)
    paths = [os.path.abspath(name) for name in names]
    root = os.path.commonpath({os.path.dirname(path) for path in paths})
    skip = len(os.path.join(root, ""))
    return root, [path[skip:].replace(os.sep, "/") for path in paths]


def _starts(division: Any, count: int) -> Sequence[int]:
    """The shard starts for `count` images; UserError if the division is invalid."""
    if type(division) is int and division > 0:
        return range(0, count, division)
    starts = list(division) if isinstance(division, Sequence) else []
    rises = all(type(start) is int for start in starts) and starts == sorted({*starts})
    if not rises or not starts or starts[0] != 0 or starts[-1] >= count:
        raise UserError(
            f"{division!r:.40} does not say where shards start: it must be a number of images, 1 or "
            "more, or positions that rise from 0"
        )
    return starts


def _division(starts: Sequence[int]) -> int | Sequence[int]:
    return starts.step if isinstance(starts, range) else starts


def _image_text(image: tuple[int | str, str]) -> str:
    image_id, name = image
    return json.dumps(name if image_id == name else [image_id, name])


def _hash(
    params: Mapping[str, Any], starts: Sequence[int], images: Iterable[tuple[int | str, str]]
) -> str:
    head = json.dumps([FORMAT_VERSION, params, _division(starts)], sort_keys=True)
    return digest("\n".join([head, *map(_image_text, images)]).encode()).hex()


def _difference(found: Manifest | None, asked: Manifest) -> str:
    if found is None:
        return f"its {MANIFEST} vanished"
    if found.source.target != asked.source.target and found.params != asked.params:
        return f"the source is {found.source.target} there, {asked.source.target} here"
    if found.params != asked.params:
        return describe_difference(found.params, asked.params)
    if found.num_images != asked.num_images:
        return f"{found.num_images} images there, {asked.num_images} here"
    if found.division != asked.division:
        if found.packed and asked.packed:
            return f"divided by bytes into {found.num_shards} shards there, {asked.num_shards} here"
        if found.packed or asked.packed:
            return "with images there, without here" if found.packed else "with images here only"
        return f"{found.division} images per shard there, {asked.division} here"
    pairs = zip(found.images, asked.images, strict=True)
    position, (theirs, ours) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    return (
        f"image {position} is {theirs[1]} (id {theirs[0]!r}) there, {ours[1]} (id {ours[0]!r}) here"
    )
