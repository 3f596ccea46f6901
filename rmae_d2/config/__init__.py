"""Configs: found, loaded, overridden, saved; and where 0.1 had what they name."""

from .load import config_root, get_config, load_config, save_config
from .overrides import apply_overrides

__all__ = ["apply_overrides", "config_root", "get_config", "load_config", "save_config"]
