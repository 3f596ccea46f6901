"""Handlers for Detectron2's PathManager: stores, web servers, members of files, content held in memory."""

import io
import os
from functools import cache
from typing import IO, Any

from . import remote
from .at_hand import open_at_hand
from .members import SCHEMES, container, open_member


@cache
def path_manager() -> Any:
    """Returns Detectron2's PathManager with our handlers; those registered later take precedence."""
    from detectron2.utils.file_io import PathManager

    register(PathManager)
    return PathManager


def register(manager: Any) -> None:
    """Adds our handlers to one of iopath's path managers.

    Without the extra ``http``, web addresses are read by iopath's own download.
    """
    from importlib.util import find_spec

    from iopath.common.file_io import HTTPURLHandler, NativePathHandler, PathHandler

    class AtHand(NativePathHandler):  # type: ignore[misc]
        """Local files, as Detectron2's mappers open them."""

        def _open(self, path: str, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:
            content = open_at_hand(path) if mode == "rb" else None
            opened: IO[Any] = content or super()._open(path, mode, *args, **kwargs)
            return opened

    class Members(PathHandler):  # type: ignore[misc]
        """Images within other files."""

        def _get_supported_prefixes(self) -> list[str]:
            return [f"{scheme}://" for scheme in SCHEMES]

        def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
            return open_member(path)

        def _isfile(self, path: str, **kwargs: Any) -> bool:
            file = container(path)
            return remote.is_file(file) if remote.is_remote(file) else os.path.isfile(file)

        _exists = _isfile

    class Remote(HTTPURLHandler):  # type: ignore[misc]
        """Reads through `remote`; writes to stores."""

        def _get_supported_prefixes(self) -> list[str]:
            return [f"{scheme}://" for scheme in remote.EXTRAS]

        def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
            if path.startswith("http") and find_spec("aiohttp") is None:
                return str(super()._get_local_path(path, force, **kwargs))
            return remote.local_path(path)

        def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
            opened: IO[Any]
            if path.startswith("http") and find_spec("aiohttp") is None:
                opened = super()._open(path, mode, buffering, **kwargs)
                return opened
            if not mode.startswith("r"):
                opened = remote.file_system(path).open(path, mode, **kwargs)
                return opened
            content = open_at_hand(path) or io.BytesIO(remote.read(path))
            if "b" in mode:
                return content
            return io.TextIOWrapper(content, **{"encoding": "utf-8", **kwargs})

        def _exists(self, path: str, **kwargs: Any) -> bool:
            return remote.exists(path)

        def _isfile(self, path: str, **kwargs: Any) -> bool:
            return remote.is_file(path)

        def _isdir(self, path: str, **kwargs: Any) -> bool:
            return remote.exists(path) and not remote.is_file(path)

        def _ls(self, path: str, **kwargs: Any) -> list[str]:
            return sorted({name.partition("/")[0] for name in remote.files_below(path)})

        def _mkdirs(self, path: str, **kwargs: Any) -> None:
            pass  # stores have no folders other than prefixes of file names

    for handler in (AtHand(), Members(), Remote()):
        manager.register_handler(handler, allow_override=True)
