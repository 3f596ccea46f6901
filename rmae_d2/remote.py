"""Reads from object stores and web servers: ``s3://``, ``gs://``, ``https://`` and ``http://``.

Uses fsspec's file systems (the extras ``s3``, ``gs`` and ``http``), which take credentials, endpoints and
proxies from the environment in the usual way. Adds the same to all: several tries, each with a
time limit; a length check; errors that name address and remedy; and `disk_cache`.

    RMAE_D2_REMOTE_TRIES    6; waits half a second after the first, then twice as long each, at most 30 s
    RMAE_D2_REMOTE_TIMEOUT  60, seconds allowed per try, for up to 16 MiB

Draws no random numbers, because augmentations depend on the seed alone, whatever the network does.
"""

import errno
import hashlib
import logging
import os
import posixpath
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any, NamedTuple

from .disk_cache import disk_cache
from .errors import RemoteError, UserError
from .extras import how_to_install

logger = logging.getLogger(__name__)

#: Address schemes, and the extra that reads each.
EXTRAS = {"s3": "s3", "gs": "gs", "https": "http", "http": "http"}
_PIECE = 16 << 20
_LONGEST_WAIT = 30.0
#: Fields by which stores and web servers distinguish versions of a file.
_MARKS = ("ETag", "etag", "generation", "Content-MD5", "LastModified", "Last-Modified")
#: HTTP statuses below 500 that are transient.
_PASSING = (408, 425, 429)


class _Facts(NamedTuple):
    folder: bool
    size: int | None  # if the server reports it
    version: str  # changes with the content


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an address that this module reads."""
    scheme, mark, _ = os.fspath(path).partition("://")
    return bool(mark) and scheme in EXTRAS


def absolute(path: str) -> str:
    """Makes a local path absolute; leaves an address unchanged."""
    return path if "://" in path else os.path.abspath(path)


def read(url: str) -> bytes:
    """Reads a whole file.

    Raises:
        FileNotFoundError: if it does not exist.
        RemoteError: if permission is denied, the bucket does not exist, or all tries fail.
        UserError: if a package is missing.
    """
    facts = _facts_of_file(url)
    return _fetch(url, None, None) if facts.size is None else _kept(url, 0, facts.size, facts)


def read_range(url: str, start: int, stop: int) -> bytes:
    """Reads a byte range of a file. Errors as in `read`; OSError if the file is too short."""
    facts = _facts_of_file(url)
    if facts.size is not None and stop > facts.size:
        raise OSError(f"{url} has {facts.size} bytes, not {stop}: copy it again")
    return _kept(url, start, stop, facts)


def _kept(url: str, start: int, stop: int, facts: _Facts) -> bytes:
    key, kept = f"{url}\0{start}-{stop}\0{facts}", disk_cache()
    content = kept.get(key)
    if content is None:
        content = b"".join(_pieces(url, start, stop, facts.size))
        kept.put(key, content)
    return content


def local_path(url: str) -> str:
    """Returns the path of a cached copy of a file, kept until its space is needed. Errors as in `read`."""
    facts = _facts_of_file(url)
    suffix = posixpath.splitext(url.partition("?")[0])[1] or ".file"
    if facts.size is not None:
        pieces = _pieces(url, 0, facts.size, facts.size)
        return disk_cache().file(f"{url}\0{facts}", facts.size, pieces, suffix)
    content = _fetch(url, None, None)
    key = f"{url}\0{hashlib.sha256(content).hexdigest()}"
    return disk_cache().file(key, len(content), [content], suffix)


def exists(url: str) -> bool:
    """Whether a file or, in a store, a folder exists. Errors as in `read`."""
    try:
        _facts(url)
    except FileNotFoundError:
        return False
    return True


def is_file(url: str) -> bool:
    """Whether a file exists. Errors as in `read`."""
    return exists(url) and not _facts(url).folder


def files_below(url: str) -> list[str]:
    """Lists all files below a folder of a store, sorted: paths relative to it. Errors as in `read`.

    Raises:
        UserError: for a web server, which cannot list folders.
    """
    if EXTRAS[url.partition("://")[0]] == "http":
        raise UserError(
            f"{url}: a web server lists no folder. Give a .txt with the address of each file, one per line"
        )
    folder = url.rstrip("/") + "/"
    found = _asked(folder, lambda fs: fs._find(folder), limited=False)
    start = len(folder.partition("://")[2])
    return sorted(name[start:] for name in found)


def _facts_of_file(url: str) -> _Facts:
    facts = _facts(url)
    if facts.folder:
        raise IsADirectoryError(errno.EISDIR, "it is a folder", url)
    return facts


@lru_cache(maxsize=1 << 16)
def _facts(url: str) -> _Facts:
    """Returns a server's facts about a file; asks once per process, so the next process sees changes."""
    info = _asked(url, lambda fs: fs._info(url))
    version = next((str(info[mark]) for mark in _MARKS if info.get(mark)), "")
    return _Facts(info["type"] == "directory", info.get("size"), version)


def forget() -> None:
    """Discards cached answers about files."""
    _facts.cache_clear()
    _buckets.clear()


def _pieces(url: str, start: int, stop: int, size: int | None) -> Iterator[bytes]:
    """Yields a file in pieces, each small enough for its own tries and time limit."""
    whole = start == 0 and stop == size
    while start < stop:
        piece = _fetch(url, start, min(start + _PIECE, stop), size if whole else None)
        start += len(piece)
        yield piece


def _fetch(url: str, start: int | None, stop: int | None, whole: int | None = None) -> bytes:
    """Fetches a byte range or all of a file; a server without ranges may send all if all is wanted.

    Args:
        whole: the file's length if all of it is wanted.
    """
    by_web = EXTRAS[url.partition("://")[0]] == "http"
    wanted = None if start is None or stop is None else stop - start
    if by_web and wanted == whole:
        start = stop = None

    async def fetched(fs: Any) -> bytes:
        content: bytes = await fs._cat_file(url, start=start, end=stop)
        if wanted is not None and len(content) < wanted:
            raise OSError(f"{len(content)} of {wanted} bytes came")
        return content

    content: bytes = _asked(url, fetched)
    if wanted is not None and len(content) not in (wanted, whole):
        raise RemoteError(
            f"{url}: the server sends all of the file when asked for a part of it. Take one that answers "
            "ranges, or copy the file to a disk"
        )
    return content


# -------------------------------------------------------------------------------------- tries and errors


def _asked(url: str, question: Callable[[Any], Any], *, limited: bool = True) -> Any:
    """Returns a file system's answer; ``question`` makes a coroutine of it.

    Raises:
        As in `read`.
    """
    from fsspec.asyn import sync

    tries, timeout = int(_setting("RMAE_D2_REMOTE_TRIES", 6)), _timeout()
    fs = file_system(url)
    for attempt in range(1, tries + 1):
        try:
            return sync(fs.loop, question, fs, timeout=timeout if limited else None)
        except Exception as error:
            behind = error.__cause__ if isinstance(error, FileNotFoundError) else None
            # fsspec reports whatever keeps a web server from answering as "not found", on top of the reason.
            last = behind if isinstance(behind, Exception) else error
            if isinstance(last, TypeError | AttributeError | RuntimeError):
                raise  # a bug, or the process is ending
            if (final := _final(url, last, fs)) is not None:
                raise final from error
            said = f"{type(last).__name__} {_line(last)}".strip()
        if attempt < tries:
            level = logging.WARNING if attempt == 2 else logging.DEBUG
            logger.log(level, "%s: try %d of %d: %s", url, attempt, tries, said)
            time.sleep(min(2.0 ** (attempt - 2), _LONGEST_WAIT))
    raise RemoteError(
        f"{url}: no whole answer in {tries} tries of {timeout:g} s, in the last one: {said}. If network "
        "and server are up, give it longer with RMAE_D2_REMOTE_TRIES and RMAE_D2_REMOTE_TIMEOUT; a run goes "
        "on with --resume"
    ) from last


def _final(url: str, error: Exception, fs: Any) -> Exception | None:
    """Returns the error to raise if another try would not help."""
    scheme, _, rest = url.partition("://")
    status = _status(error)
    name = type(error).__name__
    if name in ("NoCredentialsError", "PartialCredentialsError"):
        return RemoteError(f"{url}: there are no credentials: {_CREDENTIALS[scheme]}")
    if isinstance(error, PermissionError) or status in (401, 403):
        said = f"{status or 403} {getattr(error, 'message', None) or _line(error)}"
        return RemoteError(
            f"{url}: may not be read ({said}), or is not there, which some stores do not tell apart: "
            f"{_CREDENTIALS[scheme]}"
        )
    if status == 404 or (status is None and isinstance(error, FileNotFoundError)):
        bucket = f"{scheme}://{rest.partition('/')[0]}"
        if EXTRAS[scheme] == "http" or _is_bucket(bucket, fs):
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)
        return RemoteError(
            f"{url}: there is no bucket {bucket}: check its name, and the endpoint (AWS_ENDPOINT_URL for s3://)"
        )
    if status is not None and status < 500 and status not in _PASSING:
        return RemoteError(f"{url}: refused with {status} ({_line(error)}): check the address")
    if isinstance(error, ValueError) or name == "ParamValidationError":
        return RemoteError(
            f"{url}: cannot be asked for ({name}: {_line(error)}): check the address"
        )
    return None


#: How to supply credentials for each scheme.
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; of a public bucket "
    "FSSPEC_S3_ANON=true",
    "gs": "gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS; of a public bucket "
    "FSSPEC_GS_TOKEN=anon",
    **dict.fromkeys(("https", "http"), "put user and password into ~/.netrc, or sign the address"),
}


def _line(error: Exception) -> str:
    return f"{' '.join(str(error).split()):.250}"


def _status(error: BaseException | None) -> int | None:
    """HTTP status of an error from aiohttp, botocore or gcsfs, or of its cause."""
    while error is not None:
        response = getattr(error, "response", None)  # botocore's
        found = getattr(error, "status", None)
        if type(error).__module__.startswith("gcsfs"):
            found = getattr(error, "code", None)
        if isinstance(response, dict):
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if isinstance(found, int | str) and str(found).isdigit():
            return int(found)
        error = error.__cause__
    return None


_buckets: set[str] = set()


def _is_bucket(bucket: str, fs: Any) -> bool:
    """Whether a bucket exists; True if unknown."""
    from fsspec.asyn import sync

    if bucket not in _buckets:
        try:
            sync(fs.loop, fs._info, bucket, timeout=_timeout())
        except FileNotFoundError:
            return False
        except Exception:  # the actual question was about a file in it
            return True
        _buckets.add(bucket)
    return True


def _timeout() -> float:
    return _setting("RMAE_D2_REMOTE_TIMEOUT", 60)


def _setting(name: str, default: float) -> float:
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise UserError(f"{name}={text} is not a number above 0")
    return max(value, 1) if name.endswith("TRIES") else value


def file_system(url: str) -> Any:
    """Returns this process's fsspec file system for an address. UserError if a package is missing."""
    return _file_system(url.partition("://")[0], os.getpid(), _timeout())


_making = threading.Lock()


@cache
def _file_system(scheme: str, process: int, timeout: float) -> Any:
    """Creates fsspec's file system with connections and event-loop thread that no fork has to share.

    Its own retries are disabled where possible.
    """
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    extra = EXTRAS[scheme]
    try:
        import fsspec
        from fsspec.asyn import sync

        if extra == "s3":
            logging.getLogger("aiobotocore").setLevel(logging.WARNING)  # where it found credentials
            options["config_kwargs"] = {
                "connect_timeout": timeout,
                "read_timeout": timeout,
                "retries": {"total_max_attempts": 1},
            }
        elif extra == "http":
            from aiohttp import ClientTimeout

            options["client_kwargs"] = {
                "timeout": ClientTimeout(total=timeout),
                "trust_env": True,  # proxies and .netrc
                "auto_decompress": False,  # bytes as stored, because lengths are compared
            }
        with _making:
            fs = fsspec.filesystem(scheme, **options)
            if extra == "s3":
                fs.retries = 1
            if hasattr(fs, "set_session"):  # else the first threads would each create one
                sync(fs.loop, fs.set_session)
    except ImportError as error:
        raise UserError(
            f"reading {scheme}:// needs more ({error}): {how_to_install(extra)}"
        ) from error
    return fs
