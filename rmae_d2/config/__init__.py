"""Find, load, override and save configs, and resolve names that have moved since 0.1.

The modules that read configs are imported on first use: a command that only looks for a file needs none.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..moved import moved_name
from .find import config_root, find_config

if TYPE_CHECKING:
    from .load import get_config, load_config, save_config
    from .overrides import apply_overrides

__all__ = [
    "apply_overrides",
    "config_root",
    "find_config",
    "get_config",
    "load_config",
    "save_config",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        return moved_name(__name__, name)
    return getattr(
        import_module(f"{__name__}.{'overrides' if 'override' in name else 'load'}"), name
    )
