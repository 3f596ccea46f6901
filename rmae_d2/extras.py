"""Packages that only some features need: imported with these, and how to install one that is missing."""

from importlib import import_module
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from .errors import UserError


def needed(package: str, extra: str, what: str) -> Any:
    """Imports a module of a package that an extra of setup.py names.

    Args:
        package: the module, e.g. ``pyarrow.parquet``.
        extra: whose packages to install where it is missing.
        what: cannot do without it; the beginning of a sentence.

    Raises:
        UserError: it cannot be imported; says why, and how to install it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"{what} needs {package} ({error}): {how_to_install(extra)}") from error


def how_to_install(extra: str) -> str:
    """The command that installs an extra's packages, wherever this package came from.

    It names the packages: ``rmae_d2[extra]`` is found on no index that pip looks in.
    """
    try:
        from packaging.requirements import Requirement

        found = [Requirement(text) for text in requires("rmae_d2") or ()]
    except ImportError:  # PackageNotFoundError is one
        found = []
    of_extra = [r for r in found if r.marker is not None and r.marker.evaluate({"extra": extra})]
    if not of_extra:  # run from a checkout that was not installed, or not since the extra is there
        return f"pip install -e '{Path(__file__).parents[1]}[{extra}]'"
    return " ".join(["pip install", *(f"'{r.name}{r.specifier}'" for r in of_extra)])
