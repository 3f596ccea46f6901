"""Find config files. Imports nothing heavy, so that a misspelt name is reported at once."""

from pathlib import Path

from ..errors import UserError, did_you_mean


def config_root() -> Path:
    """The folder of configs: the one in the installed package, else the repository's `configs/`."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise UserError(f"no configs in {package} nor beside it: reinstall rmae_d2 from its repository")


def find_config(path: str | Path) -> str:
    """Resolve a path from the command line: a .py config, a saved config.yaml, or anything remote.

    "configs/pretrain/x.py" and "pretrain/x.py" also work outside the repository, by falling back to
    `config_root()`; an existing file always takes precedence.

    Raises:
        UserError: the file does not exist; the message lists the closest names.
    """
    if "://" in str(path) or Path(path).is_file():  # PathManager opens remote files
        return str(path)
    relative = Path(path)
    parts = relative.parts[1:] if relative.parts[:1] == ("configs",) else relative.parts
    root = config_root()
    if not relative.is_absolute() and root.joinpath(*parts).is_file():
        return str(root.joinpath(*parts))
    hint = did_you_mean(Path(*parts).as_posix(), available(), sep="/")
    raise UserError(f"no config file {path} in {Path.cwd()} nor in {root}; {hint}")


def available() -> list[str]:
    """The names of all configs below `config_root()`."""
    root = config_root()
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*.py"))
