"""R-MAE pre-training of vision transformers, as a Detectron2 extension.

With the package imported, its architectures and datasets are in Detectron2's registries; see
:mod:`~rmae_d2.registration`. Without Detectron2 the package still imports, for ``rmae_d2.regions`` needs
numpy only; everything else then says what is missing.
"""

from importlib import import_module
from typing import Any

from . import compat, moved, registration

__version__ = "0.2.0"

moved.install()
compat.quiet_known_warnings()
registration.register()


def __getattr__(name: str) -> Any:
    """The two packages that 0.1 imported here."""
    if name in ("data", "modeling"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
