"""The only home of shims for other packages: each names the package, the version and the reason."""

import warnings
from importlib.util import find_spec


def check_detectron2() -> None:
    """Refuses a Detectron2 without plain-ViT support.

    detectron2 0.6 (the last tag, October 2021) has neither ViTDet nor LazyConfig's later fixes, and the
    version number did not change since, so the module is looked for instead.

    Raises:
        ImportError: naming the installer.
    """
    if find_spec("detectron2.modeling.backbone.vit") is None:
        raise ImportError(
            "the installed Detectron2 has no detectron2.modeling.backbone.vit: it is older than mid-2022. "
            "Remove it (pip uninstall detectron2) and run: rmae-d2 install-detectron2"
        )


def quiet_known_warnings() -> None:
    """Keeps warnings that a user can do nothing about off the screen.

    detectron2 (all versions to date) imports ``timm.models.layers``, which timm 1.0 calls deprecated.
    """
    warnings.filterwarnings(
        "ignore", message="Importing from timm.models.layers", category=FutureWarning
    )
