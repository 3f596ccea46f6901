"""Names and headers of the members of a shard's tar."""

import re
import struct
from urllib.parse import quote, unquote

from ...errors import StoreError

BLOCK = 512
SUFFIX = ".regions"
# name, mode, uid, gid, size, mtime, checksum, type, link, magic, version, user, group, device
# numbers, prefix: the fields of POSIX ustar.
_USTAR = struct.Struct("100s8s8s8s12s12s8s1s100s6s2s32s32s8s8s155s12x")
_MAX_SIZE = 8**11 - 1
_ODD_SLASHES = re.compile("^/+|//+|/+$")


def encode_key(key: str) -> bytes:
    """UTF-8 encoding of a key; also for file names that are not valid text."""
    return key.encode("utf-8", "surrogatepass")


def escape_key(key: str) -> str:
    """A key as a tar member's name without its suffix; ASCII, relative, undone by `unescape_key`.

    Also percent-encodes dots, because WebDataset ends a key at the first one, and slashes that make a
    path absolute or that file systems would drop.
    """
    if not key:
        raise StoreError("a key of a region store must not be empty")
    name = quote(key, safe="/", errors="surrogatepass").replace(".", "%2E")
    return _ODD_SLASHES.sub(lambda slashes: "%2F" * len(slashes[0]), name)


def unescape_key(name: str) -> str:
    """Undo `escape_key`; with a WebDataset reader: `unescape_key(sample["__key__"])`."""
    return unquote(name, errors="surrogatepass")


def member_header(key: str, size: int, suffix: str = SUFFIX) -> bytes:
    """What precedes a record or image of `size` bytes in the tar: a function of the arguments alone."""
    if size > _MAX_SIZE:
        raise StoreError(
            f"{suffix[1:]} of {key!r} has {size} bytes, at most {_MAX_SIZE} fit in a tar"
        )
    name = (escape_key(key) + suffix).encode()
    header = _ustar(name[:100], size, b"0")
    if len(name) > 100:  # it goes into a pax header of its own
        return _pax(b"pax_header", b"x", b"path", name) + header
    return header


def global_header(text: str) -> bytes:
    """The header that a tar begins with: `text` as a comment that tar readers skip."""
    return _pax(b"pax_global_header", b"g", b"comment", text.encode())


def empty_folder() -> bytes:
    """An empty member: Python's tarfile refuses a tar with only a global header."""
    return _ustar(b"empty/", 0, b"5")


def _pax(name: bytes, kind: bytes, field: bytes, value: bytes) -> bytes:
    """A pax header with one record, `length field=value`, whose length includes its own digits."""
    rest = b" " + field + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    record = str(length).encode() + rest
    return _ustar(name, len(record), kind) + record + bytes(-len(record) % BLOCK)


def _ustar(name: bytes, size: int, kind: bytes) -> bytes:
    zero, mode = b"0000000\0", b"0000755\0" if kind == b"5" else b"0000644\0"
    fields = [
        name, mode, zero, zero, b"%011o\0" % size, b"00000000000\0", b" " * 8, kind,
        b"", b"ustar\0", b"00", b"", b"", zero, zero, b"",
    ]  # fmt: skip
    fields[6] = b"%06o\0 " % sum(_USTAR.pack(*fields))
    return _USTAR.pack(*fields)
