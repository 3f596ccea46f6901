"""Locate weights: local, at a web address, or by a Hugging Face hub name; downloaded once.

    FILE or FOLDER                   on this machine
    https://HOST/FILE                into iopath's cache, in one folder per host
    hf://ORG/NAME[/FILE][@REVISION]  from the Hugging Face hub, into its cache; without FILE, the usual names
    timm://MODEL                     the weights that timm has for a model, from the hub
    rmae-d2://NAME                   weights shipped with the package

Each may be followed by ``?key=NAME``, to select among several weights in a file, and ``#sha256=HEX``, the
file's hash.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from detectron2.utils.file_io import PathManager

from ..errors import CheckpointError, did_you_mean
from ..hub_files import HUB, INDEX, hub_file, shard_names
from ..shipped import PREFIX, register_names
from .weight_file import file_hash

register_names(PathManager)

#: Names of weights in a folder or repository, whole or in shards: the first one present is used.
USUAL_FILES = (
    "model_final.pth",
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
)
_TIMM, _WEB = "timm://", ("https://", "http://")
_HASH = re.compile(r"#sha256=([^#]*)$")
# The parts of a query that we consume; Detectron2's says how to match names, which we need no help for.
_OURS = ("key", "matching_heuristics")


@dataclass(frozen=True)
class Source:
    """The parsed name of a weight file.

    Attributes:
        address: without the suffixes.
        key: see `choose`; None if not given.
        sha256: hash that the file must have; None if not given.
    """

    address: str
    key: str | None = None
    sha256: str | None = None

    @property
    def is_remote(self) -> bool:
        """Whether it is somebody else's file, fetched over a network."""
        return "://" in self.address and not self.address.startswith(PREFIX)


def parse_source(weights: str) -> Source:
    """Split off ``?key=NAME`` and ``#sha256=HEX``; the rest of a web address's query stays.

    Raises:
        CheckpointError: the hash is malformed.
    """
    sha256 = _HASH.search(weights)
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256[1]):
        raise CheckpointError(f"{weights}: #sha256= wants 64 hexadecimal digits, not {sha256[1]!r}")
    address, _, query = _HASH.sub("", weights).partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    keys = [value for name, value in pairs if name == "key"]
    theirs = [pair for pair in pairs if pair[0] not in _OURS]
    if theirs and address.startswith(_WEB):
        address = f"{address}?{urlencode(theirs)}"
    return Source(address, keys[-1] if keys else None, sha256[1].lower() if sha256 else None)


def local_path(
    weights: str, *, beside: Sequence[str] = (), hub: Mapping[str, Any] | None = None
) -> Path:
    """The local path of weights, downloading them first if they are remote.

    Args:
        weights: as `rmae_d2.checkpoint.load_weights` takes them. For a folder that contains one of
            ``USUAL_FILES``, the result is that file.
        beside: other files of a hub repository to download as well, if it has them.
        hub: of huggingface_hub's ``hf_hub_download``: token, cache_dir, local_files_only, ...

    Raises:
        CheckpointError: there is no such file or folder, it cannot be downloaded, or its hash differs.
    """
    source = parse_source(weights)
    address = source.address
    if address.startswith(HUB):
        path = hub_file(address, USUAL_FILES, beside, hub)
    elif address.startswith(_TIMM):
        path = hub_file(_timm_repository(address), USUAL_FILES, address=address)
    elif address.startswith(_WEB):
        path = _from_web(address)
    else:
        try:
            path = Path(PathManager.get_local_path(address))
        except OSError as error:
            raise CheckpointError(f"{weights}: could not be fetched ({error!s:.200})") from error
    if path.is_dir():
        path = next((path / name for name in USUAL_FILES if (path / name).is_file()), path)
    if not path.exists():
        raise CheckpointError(f"{weights}: no such weight file")
    if source.sha256 is not None:
        _check_hash(path, source)
    return path


def _check_hash(path: Path, source: Source) -> None:
    found = "of no single file" if path.is_dir() else file_hash(path)
    if found != source.sha256:
        raise CheckpointError(
            f"{source.address}: its SHA-256 is {found}, not {source.sha256} as asked: another file, or a "
            f"damaged one. Correct the hash, or delete {path} and fetch it again"
        )


def _from_web(address: str) -> Path:
    """Download into one cache per host, because iopath distinguishes files of two hosts by path alone."""
    from iopath.common.file_io import HTTPURLHandler, get_cache_dir

    host = urlsplit(address).netloc.replace(":", "_")
    cache = os.path.join(get_cache_dir(), "weights", host)
    try:
        return Path(HTTPURLHandler()._get_local_path(address, cache_dir=cache))
    except OSError as error:
        raise CheckpointError(
            f"{address}: could not be fetched ({error!s:.200}). Where there is a network, "
            f"curl -LO '{address}' fetches it: then name the file"
        ) from error


def _timm_repository(address: str) -> str:
    """A timm model's repository on the hub, with the file if its name is not the usual one."""
    import timm

    name = address.removeprefix(_TIMM)
    try:
        config = timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # no such model, or the model has no such weights
        config = None
    repository = getattr(config, "hf_hub_id", None)
    if not repository:
        known = timm.list_pretrained()
        raise CheckpointError(
            f"{address}: timm {timm.__version__} has no such weights; {did_you_mean(name, known)} "
            "timm.list_pretrained() names all of them"
        )
    file = getattr(config, "hf_hub_filename", None)
    return f"{repository}/{file}" if file else str(repository)


def shards_of(index: Path) -> list[Path]:
    """The files beside an index that hold its tensors.

    Raises:
        CheckpointError: a file is missing or elsewhere, or the index is not one.
    """
    files = [index.parent / name for name in shard_names(index)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"{index}: {len(missing)} of its {len(files)} shards are missing ({', '.join(missing[:3])}): "
            "put them beside it"
        )
    return files
