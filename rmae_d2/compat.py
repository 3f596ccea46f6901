"""All shims for other packages: each names the package, the version and the reason."""

import logging
import warnings
from importlib.util import find_spec
from typing import Any


def check_detectron2() -> None:
    """Rejects a Detectron2 without plain-ViT support.

    detectron2 0.6 (the last tag, October 2021) has neither ViTDet nor LazyConfig's later fixes, and its
    version number has not changed since, so this looks for the module instead.

    Raises:
        ImportError: naming the installer.
    """
    if find_spec("detectron2.modeling.backbone.vit") is None:
        raise ImportError(
            "the installed Detectron2 has no detectron2.modeling.backbone.vit: it is older than mid-2022. "
            "Remove it (pip uninstall detectron2) and run: rmae-d2 install-detectron2"
        )


def is_exporting() -> bool:
    """Whether torch is exporting a graph: by ``torch.onnx`` or ``torch.export`` (known since 2.7)."""
    import torch

    program = getattr(torch.compiler, "is_exporting", None)
    return torch.onnx.is_in_onnx_export() or bool(program and program())


def onnx_by_tracing() -> dict[str, Any]:
    """Arguments that make ``torch.onnx.export`` trace; before torch 2.5 it had no other way.

    From 2.9 on, its default is another exporter, which Detectron2's detectors do not pass.
    """
    from inspect import signature

    import torch

    return {"dynamo": False} if "dynamo" in signature(torch.onnx.export).parameters else {}


def quiet_known_warnings() -> None:
    """Hides warnings that a user can do nothing about.

    detectron2 (all versions to date) imports ``timm.models.layers``, which timm 1.0 deprecates; calls
    ``torch.meshgrid`` without ``indexing``, about which torch warns; and makes tensors, which are copied at
    once, from masks that pycocotools returns read-only. Torch (seen in 2.11) logs that it looks for CUDA's
    compiler without a GPU, and the meaning of ``is_fx_tracing``, which torchvision calls. Its data loader
    warns twice per loader about what training reports once (`rmae_d2.engine.machine`). In notebooks tqdm,
    which huggingface_hub imports, misses widgets for bars that are never drawn.
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
    warnings.filterwarnings("ignore", "IProgress not found")  # tqdm has its own category
    for name, text in (
        ("torch.utils.cpp_extension", "No CUDA runtime is found"),
        ("torch.fx._symbolic_trace", "is_fx_tracing will return true"),
    ):
        logging.getLogger(name).addFilter(_Without(text))


class _Without(logging.Filter):
    """Drops log records that begin with a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self.text)
