"""Packages that only some features need: lazy import, and install hints for missing ones."""

from importlib import import_module
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from .errors import UserError


def needed(package: str, extra: str, what: str) -> Any:
    """Imports a module from a package listed in an extra of setup.py.

    Args:
        package: the module, e.g. ``pyarrow.parquet``.
        extra: the extra to install if it is missing.
        what: what needs it; used as the beginning of a sentence.

    Raises:
        UserError: if it cannot be imported; says why, and how to install it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"{what} needs {package} ({error}): {how_to_install(extra)}") from error


def how_to_install(extra: str) -> str:
    """Returns the command that installs an extra's packages, wherever this package came from.

    It names the packages because ``rmae_d2[extra]`` is on no index that pip searches.
    """
    try:
        from packaging.requirements import Requirement

        found = [Requirement(text) for text in requires("rmae_d2") or ()]
    except ImportError:  # includes PackageNotFoundError
        found = []
    of_extra = [r for r in found if r.marker is not None and r.marker.evaluate({"extra": extra})]
    if not of_extra:  # checkout that is not installed, or was before the extra existed
        return f"pip install -e '{Path(__file__).parents[1]}[{extra}]'"
    return " ".join(["pip install", *(f"'{r.name}{r.specifier}'" for r in of_extra)])
