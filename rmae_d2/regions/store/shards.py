"""One shard of a region store: a tar of records and, beside it, an index of the tar.

    regions-00042.tar       POSIX pax tar, members `<escaped key>.regions` in the order of writing
    regions-00042.idx.npz   where each record is, digests of records and images

Both are pure functions of what was added: they contain no time, user or host. The tar begins with a pax
global header whose `comment` is the shard's JSON (format, shard, params ...), so tar readers such as
WebDataset's see nothing but records. The index is renamed into place last: a shard with an index is
complete, and a killed writer leaves only files named *.tmp.

A packed shard also contains images, each before its record, and its index says where; see ../../packed.py.
"""

import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import StoreError, UserError
from ...files import NotAFileError, atomic_file, check_file
from ...packed import FORMAT_VERSION, ImageColumns, shard_files, shard_name
from .tar_members import BLOCK, SUFFIX, empty_folder, encode_key, global_header, member_header

DIGEST_SIZE = 16
_COLUMNS = ("ends", "offsets", "sizes", "record_digests", "image_digests")
#: For a packed store whose images have no regions.
NO_REGIONS = {"source": "none"}
REMEDY = "run rmae-d2 regions (or pack) again with the same options: it makes what is missing"


def digest(data: bytes) -> bytes:
    """The digest of records and image files in a store: blake2b, 16 bytes."""
    return blake2b(data, digest_size=DIGEST_SIZE).digest()


def params_hash(params: Mapping[str, Any]) -> str:
    """Hash, 32 hexadecimal digits, of a source's parameters (JSON types)."""
    return digest(json.dumps(params, sort_keys=True).encode()).hex()


@dataclass(frozen=True)
class ShardHeader:
    """What all shards of a store have in common."""

    params: Mapping[str, Any]  # of the region source; JSON types
    num_shards: int  # in the whole store, whether or not they exist already
    manifest: str = ""  # hash of the list of images; any text

    def to_json(self, number: int) -> str:
        """The JSON stored in shard `number`."""
        content = {
            "format": FORMAT_VERSION,
            "shard": number,
            "num_shards": self.num_shards,
            "params": self.params,
            "params_hash": params_hash(self.params),
            "manifest": self.manifest,
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, number: int, file: str) -> "ShardHeader":
        """Undo `to_json`; StoreError: the JSON is something else, in another format, or of another shard."""
        try:
            content = json.loads(text)
            header = cls(content["params"], content["num_shards"], content["manifest"])
            version, shard, known = (content[k] for k in ("format", "shard", "params_hash"))
            for value, kind in zip(vars(header).values(), (dict, int, str), strict=True):
                if type(value) is not kind:
                    raise TypeError(f"{value!r:.40} is not of the type {kind.__name__}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{file} has no header of a region store; {redo(number)}") from error
        if version != FORMAT_VERSION:
            raise StoreError(
                f"{file} is of store format {version}, this program reads {FORMAT_VERSION}: "
                "make the store again, or read it with the version that made it"
            )
        if shard != number or not 0 <= number < header.num_shards:
            raise StoreError(f"{file} holds shard {shard!r:.40}: it was renamed; {redo(number)}")
        if known != params_hash(header.params):
            raise StoreError(f"{file} is damaged: its parameters have another hash; {redo(number)}")
        return header


@dataclass(frozen=True)
class ShardIndex:
    """Where the n records of a shard are."""

    header: ShardHeader
    blob: bytes  # the keys' UTF-8 bytes, joined
    ends: NDArray[np.uint64]  # (n,), where each key ends in `blob`
    offsets: NDArray[np.uint64]  # (n,), of the record's first byte in the tar
    sizes: NDArray[np.uint64]  # (n,), bytes of the record
    record_digests: NDArray[np.uint8]  # (n, 16), see `digest`
    image_digests: NDArray[np.uint8]  # (n, 16), of the bytes of the image files
    tar_size: int
    images: ImageColumns | None = None  # for a packed shard

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def has_record(self) -> NDArray[np.bool_]:
        """(n,); False for images packed without a record."""
        return np.ones(len(self), bool) if self.images is None else self.sizes > 0

    def keys(self) -> Iterator[str]:
        """The keys in the order of the tar."""
        start = 0
        for end in self.ends.tolist():
            yield self.blob[start:end].decode("utf-8", "surrogatepass")
            start = end


class ImageFile(NamedTuple):
    """An image to be packed."""

    content: bytes  # of its file
    extension: str  # of its name in the tar: "jpg"
    shape: tuple[int, int]  # height and width in pixels, upright
    number_id: bool  # whether its id is a number


class ShardWriter:
    """Writes one shard; a context manager, whose files appear if it ends without an exception.

    Concurrent writers of the same shard do no harm: they write the same bytes.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        number: int,
        header: ShardHeader,
        packed: bool = False,
    ) -> None:
        """The folder must exist; the header is the same for all shards of a store. Packed: with images."""
        if not 0 <= number < header.num_shards:
            raise StoreError(f"shard {number} of a store of {header.num_shards} shards")
        self._folder, self._number, self._header = folder, number, header
        self._keys: dict[bytes, None] = {}
        self._rows: list[tuple[int, int, bytes, bytes]] = []  # offset, size, record's, image's
        self._images: list[tuple[Any, ...]] | None = [] if packed else None  # see ImageColumns
        self._tar: IO[bytes] | None = None
        self._block = self._write()

    def __enter__(self) -> "ShardWriter":
        self._block.__enter__()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._block.__exit__(*error)

    @contextmanager
    def _write(self) -> Iterator[None]:
        tar, idx = (Path(self._folder, name) for name in shard_files(self._number))
        _check_files((tar, idx), self._number)
        try:
            with atomic_file(tar) as self._tar:
                self._tar.write(global_header(self._header.to_json(self._number)))
                yield
                self._tar.write((b"" if self._rows else empty_folder()) + bytes(2 * BLOCK))
                index = encode_index(self._index(self._tar.tell()), self._number)
                if idx.exists() and idx.read_bytes() != index:
                    idx.unlink()  # the old index must never be beside the new tar
            with atomic_file(idx) as file:
                file.write(index)
        except UserError as error:
            # Another process's `write_index` removed our drafts, which it only does in a complete store.
            swept = isinstance(error.__cause__, FileNotFoundError)
            if not swept or not has_shard(self._folder, self._number, self._header):
                raise
        finally:
            self._tar = None

    def add(
        self, key: str, record: bytes, image_digest: bytes, image: ImageFile | None = None
    ) -> None:
        """Append a record under any new key, with `digest` of its image file's bytes; else StoreError.

        A packed shard also takes the image; the record may then be empty.
        """
        if self._tar is None:
            raise StoreError("ShardWriter.add works only within its with block")
        if len(image_digest) != DIGEST_SIZE:
            raise StoreError(
                f"image_digest of {key!r} has {len(image_digest)} bytes: pass shards.digest(bytes)"
            )
        encoded = encode_key(key)
        if encoded in self._keys:
            raise StoreError(f"key {key!r} was added twice to shard {self._number}")
        if (image is None) != (self._images is None):
            raise StoreError("a packed shard takes an image with each key, another one takes none")
        header = member_header(key, len(record))  # before anything is written: it may be refused
        if image is not None and self._images is not None:
            content, extension, shape, number_id = image
            place = self._write_member(member_header(key, len(content), f".{extension}"), content)
            self._images.append((place, len(content), shape, extension.encode(), number_id))
        self._keys[encoded] = None
        place = 0 if image and not record else self._write_member(header, record)
        self._rows.append((place, len(record), digest(record), image_digest))

    def _write_member(self, header: bytes, content: bytes) -> int:
        """Write a member; return where its content begins."""
        assert self._tar is not None
        place = self._tar.tell() + len(header)
        self._tar.write(header + content + bytes(-len(content) % BLOCK))
        return place

    def _index(self, tar_size: int) -> ShardIndex:
        offsets, sizes, records, images = zip(*self._rows, strict=True) if self._rows else [()] * 4
        return ShardIndex(
            self._header,
            b"".join(self._keys),
            np.cumsum([len(key) for key in self._keys], dtype=np.uint64),
            np.array(offsets, np.uint64),
            np.array(sizes, np.uint64),
            np.frombuffer(b"".join(records), np.uint8).reshape(-1, DIGEST_SIZE),
            np.frombuffer(b"".join(images), np.uint8).reshape(-1, DIGEST_SIZE),
            tar_size,
            None if self._images is None else ImageColumns.of(self._images),
        )


def has_shard(folder: str | os.PathLike[str], number: int, header: ShardHeader) -> bool:
    """Whether a shard is complete; False also if it is damaged and must be made again.

    Raises:
        StoreError: there is a shard, but with other parameters or another image list, or something other
            than a file has one of its names.
    """
    tar, idx = (os.path.join(folder, name) for name in shard_files(number))
    _check_files((tar, idx), number)
    try:
        found = read_index(idx, number)
        whole = os.path.getsize(tar) == found.tar_size
    except (OSError, StoreError):
        return False
    check_same(header, found.header, idx)
    return whole


def _check_files(paths: Iterable[str | Path], number: int) -> None:
    try:
        for path in paths:
            check_file(path)
    except NotAFileError as error:
        raise StoreError(f"{error.filename}: {error.strerror}; {redo(number)}") from error


def check_same(header: ShardHeader, other: ShardHeader, file: str) -> None:
    """Raise StoreError, naming `file`, if its header `other` belongs to another store."""
    if header.to_json(0) == other.to_json(0):
        return
    ours, theirs = (json.loads(h.to_json(0)) for h in (header, other))
    what = next(k for k in ("params", "manifest", "num_shards") if ours[k] != theirs[k])
    raise StoreError(
        f"{file} is a shard of another store, {what}: {theirs[what]} instead of {ours[what]}. "
        "One folder holds one store: take another folder, or remove the shards of the old one"
    )


# --------------------------------------------------------------------------------- index file


def encode_index(index: ShardIndex, number: int) -> bytes:
    """Bytes of a shard's idx.npz, which `numpy.load` can read, too."""
    arrays: dict[str, NDArray[Any]] = {
        "header": np.frombuffer(index.header.to_json(number).encode(), np.uint8),
        "keys": np.frombuffer(index.blob, np.uint8),
        **{name: getattr(index, name) for name in _COLUMNS},
        "tar_size": np.array([index.tar_size], np.uint64),
        **(index.images._asdict() if index.images else {}),
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy")  # dated 1980: np.savez may use the current time
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, member.getvalue())
    return out.getvalue()


def read_index(path: str, number: int) -> ShardIndex:
    """Read the idx.npz of shard `number`.

    Raises:
        StoreError: it is damaged, of another shard, or has contents that no writer would produce.
        OSError: it cannot be read.
    """
    check_file(path)
    data = Path(path).read_bytes()
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:  # the zip has their checksums
            if sum(member.file_size for member in arrays.zip.infolist()) > len(data):
                raise UserError("its arrays are compressed")  # and may have any size
            header = ShardHeader.from_json(arrays["header"].tobytes().decode(), number, path)
            columns = {name: arrays[name] for name in _COLUMNS}
            size = int(arrays["tar_size"][0])
            names, images = ImageColumns._fields, None
            if names[0] in arrays.files:
                images = ImageColumns(*(arrays[name] for name in names))
            blob = arrays["keys"].tobytes()
            index = ShardIndex(header, blob, tar_size=size, images=images, **columns)
        _check_index(index)
    except StoreError:
        raise
    except Exception as error:  # zipfile raises half a dozen kinds on damaged input
        raise StoreError(f"{path} is damaged ({error!s:.200}); {redo(number)}") from error
    return index


def _check_index(index: ShardIndex) -> None:
    """UserError if `encode_index` cannot have written it; UnicodeDecodeError for an invalid key."""
    types = ["<u8"] * 3 + ["u1"] * 2
    if [getattr(index, name).dtype for name in _COLUMNS] != types:
        raise UserError("its arrays have other types")
    count = len(index.ends)
    ends = index.ends.astype(np.int64)
    shapes = [getattr(index, name).shape for name in _COLUMNS]
    if (
        shapes != [(count,)] * 3 + [(count, DIGEST_SIZE)] * 2
        or (count and ends[-1] != len(index.blob))
        or (np.diff(ends, prepend=0) <= 0).any()
        or (index.offsets > index.tar_size).any()  # separately: the sum of two may overflow
        or (index.sizes > np.uint64(index.tar_size) - index.offsets).any()
    ):
        raise UserError("its arrays disagree")
    if index.images and (fault := index.images.fault(count, index.tar_size)):
        raise UserError(fault)
    if len(set(index.keys())) != count:
        raise UserError("it has a key twice")


def redo(number: int) -> str:
    """What to do about a damaged shard."""
    return f"remove {shard_name(number)}.* and {REMEDY}"


def layout(index: ShardIndex, number: int) -> Iterator[tuple[bytes, int]]:
    """Yield what precedes each member's content in a tar, and the content's length; last the end, and 0."""
    before = global_header(index.header.to_json(number))
    for row, (key, held) in enumerate(zip(index.keys(), index.has_record, strict=True)):
        members = [(SUFFIX, int(index.sizes[row]))] if held else []
        if index.images:
            extension = index.images.image_extensions[row].decode()
            members.insert(0, (f".{extension}", int(index.images.image_sizes[row])))
        for suffix, size in members:
            yield before + member_header(key, size, suffix), size
            before = bytes(-size % BLOCK)
    yield before + (b"" if len(index) else empty_folder()) + bytes(2 * BLOCK), 0
