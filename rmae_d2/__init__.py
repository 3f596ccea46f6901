"""R-MAE pre-training of vision transformers, as a Detectron2 extension.

Importing the package adds its architectures and datasets to Detectron2's registries; see `registration`.
It can also be imported without Detectron2, because ``rmae_d2.regions`` needs numpy only; everything else then
reports what is missing.
"""

from importlib import import_module
from typing import Any

from . import compat, moved, registration

__version__ = "0.2.0"

moved.install()
compat.quiet_known_warnings()
registration.register()


#: What the package does with a trained model, imported on first use; and packages that 0.1 had here.
_LAZY = {
    "load": ".inference.pretrained",
    "features": ".inference.features",
    "detections": ".inference.detections",
    "save_pretrained": ".hub",
    "push_to_hub": ".hub",
    "data": "",
    "modeling": "",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(_LAZY[name] or f".{name}", __name__)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "detectron2":
            raise
        raise ModuleNotFoundError(
            f"{__name__}.{name} needs Detectron2, which is not installed here: rmae-d2 install-detectron2",
            name=error.name,
        ) from error
    return getattr(module, name) if _LAZY[name] else module
