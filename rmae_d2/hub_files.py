"""Files of Hugging Face hub repositories, fetched into its cache; failures are reported in one line."""

import json
import logging
import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from .errors import CheckpointError

logger = logging.getLogger(__name__)

#: Prefix of hub names where they are ambiguous: ``hf://ORG/NAME[/FILE][@REVISION]``.
HUB = "hf://"
#: Suffix of files that list which shard holds which tensor.
INDEX = ".index.json"
_NAME = re.compile(r"([^/@]+/[^/@]+)(?:/([^@]+))?(?:@(.+))?")


def hub_file(
    name: str,
    usual: Sequence[str],
    beside: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    *,
    address: str | None = None,
) -> Path:
    """Fetches a file of a repository, its other shards and accompanying files, all from one commit.

    Args:
        name: ``ORG/NAME[/FILE][@REVISION]``, with or without ``hf://``.
        usual: files to try in order if the name contains none.
        beside: other files to fetch too, if the repository has them.
        options: of huggingface_hub's ``hf_hub_download``: token, cache_dir, local_files_only, ...
        address: name to use in messages; None for ``name``.

    Raises:
        CheckpointError: if there is no such file, or it can't be fetched.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    address = name if address is None else address
    match = _NAME.fullmatch(name.removeprefix(HUB))
    if match is None:
        raise CheckpointError(f"{address}: a name of the hub is hf://ORG/NAME[/FILE][@REVISION]")
    repository, file, revision = match.groups()
    given = dict(options or {})
    revision = revision or given.get("revision")
    given["revision"] = revision
    offline = False
    if not (given.get("local_files_only") or constants.HF_HUB_OFFLINE):
        given["local_files_only"] = offline = not _answers(
            given.get("endpoint") or constants.ENDPOINT
        )

    def fetch(file: str) -> Path | None:
        """Returns None if the repository lacks the file, or it is not cached and the hub is unreachable."""
        nonlocal offline
        try:
            return Path(hf_hub_download(repository, file, **given))
        except LocalEntryNotFoundError:
            # Once the hub is unreachable it is not asked again: each name would have to time out.
            given["local_files_only"] = offline = True
        except EntryNotFoundError:
            pass
        return None

    try:
        for candidate in (file,) if file else usual:
            path = fetch(candidate)
            if path is None:
                continue
            folder = os.path.dirname(candidate)
            given["revision"] = _commit_of(path) or revision  # everything from one commit
            for shard in shard_names(path) if candidate.endswith(INDEX) else ():
                fetch(os.path.join(folder, shard))
            lacking = [name for name in beside if fetch(os.path.join(folder, name)) is None]
            if lacking and offline:
                text = "%s: not in the hub's cache, and the hub can't be reached: %s; taken without"
                logger.warning(text, address, ", ".join(lacking))
            return path
    except GatedRepoError as error:
        page = f"https://huggingface.co/{repository}"
        raise CheckpointError(
            f"{address}: its owners give access on request: ask at {page}, then hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{address}: the hub has no repository {repository}, or it is private: check the name, or log in "
            "with hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{address}: {repository} has no revision {revision!r}") from error
    except (HFValidationError, HfHubHTTPError, HTTPError, OSError) as error:
        raise CheckpointError(f"{address}: could not be fetched ({what_it_says(error)})") from error
    if offline:
        words = ["hf download", repository, file, revision and f"--revision {revision}"]
        command = " ".join(word for word in words if word)
        raise CheckpointError(
            f"{address}: not in the hub's cache of this machine, and the hub can't be reached. Where it can, "
            f"{command} --local-dir FOLDER fetches it: then name FOLDER here"
        )
    what = f"no file {file}" if file else f"none of {', '.join(usual)}: name its file"
    raise CheckpointError(f"{address}: {repository} has {what}")


def _answers(endpoint: str) -> bool:
    """Whether a hub accepts connections: huggingface_hub would retry each file for half a minute."""
    if getproxies():
        return True  # which only they can tell
    address = urlsplit(endpoint)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=10).close()
    except OSError:
        return False
    return True


def _commit_of(path: Path) -> str | None:
    """Returns the commit of a file in the hub's cache."""
    parents = [parent.name for parent in path.parents]
    return parents[parents.index("snapshots") - 1] if "snapshots" in parents else None


def shard_names(index: Path) -> list[str]:
    """Lists the files that an index names.

    Raises:
        CheckpointError: if it is not an index.
    """
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(str(name) for name in names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index}: no index of shards, for it has no weight_map ({error!s:.100})"
        ) from error


def what_it_says(error: Exception) -> str:
    """Formats a hub error in one line, without links to pages about its status."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = getattr(error, "server_message", None) or (lines[0] if lines else "no message")
    return f"{type(error).__name__}: {said}"
