"""The only home of shims for other packages: each names the package, the version and the reason."""

import logging
import warnings
from importlib.util import find_spec
from typing import Any


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


def is_exporting() -> bool:
    """Whether torch records a graph for a file: ``torch.onnx``'s, or ``torch.export``'s (known since 2.7)."""
    import torch

    program = getattr(torch.compiler, "is_exporting", None)
    return torch.onnx.is_in_onnx_export() or bool(program and program())


def onnx_by_tracing() -> dict[str, Any]:
    """Arguments by which ``torch.onnx.export`` traces; before torch 2.5 it knew no other way.

    From 2.9 on its default is another exporter, which Detectron2's detectors do not pass.
    """
    from inspect import signature

    import torch

    return {"dynamo": False} if "dynamo" in signature(torch.onnx.export).parameters else {}


def quiet_known_warnings() -> None:
    """Keeps warnings that a user can do nothing about off the screen.

    detectron2 (all versions to date) imports ``timm.models.layers``, which timm 1.0 calls deprecated; calls
    ``torch.meshgrid`` without an indexing, which torch warns of; and makes tensors, copied at once, of masks
    that pycocotools hands out read-only. Torch (seen in 2.11) logs that it looks for CUDA's compiler where
    there is no GPU, and what ``is_fx_tracing``, which torchvision asks, means. Its data loader tells twice,
    for every loader anew, what training says once (`rmae_d2.engine.machine`). In notebooks tqdm, which
    huggingface_hub imports, misses widgets for bars that are not drawn.
    """
    warnings.filterwarnings(
        "ignore", message="Importing from timm.models.layers", category=FutureWarning
    )
    for message, module in (
        ("torch.meshgrid: in an upcoming release", ""),
        ("The given NumPy array is not writable", "detectron2"),
        ("This DataLoader will create", ""),
    ):
        warnings.filterwarnings("ignore", message, UserWarning, module)
    warnings.filterwarnings("ignore", "IProgress not found")  # of tqdm's own category
    for name, text in (
        ("torch.utils.cpp_extension", "No CUDA runtime is found"),
        ("torch.fx._symbolic_trace", "is_fx_tracing will return true"),
    ):
        logging.getLogger(name).addFilter(_Without(text))


class _Without(logging.Filter):
    """Leaves out what begins with a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self.text)
