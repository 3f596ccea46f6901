"""Identify the code behind a run, for the first line of its log."""

import subprocess
from pathlib import Path

from .. import __version__


def describe_code() -> str:
    """This package's version and, in its git work tree, the commit; human-readable.

    Such as ``rmae_d2 0.1.0, commit f87950fe98d8``, followed by ``-dirty`` if tracked files were changed.
    """
    root = Path(__file__).resolve().parents[2]
    said = f"rmae_d2 {__version__}"
    if not (root / ".git").exists():  # installed, maybe below another work tree
        return said
    command = [
        "git",
        "-C",
        str(root),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return said
    return f"{said}, commit {done.stdout.strip()}"
