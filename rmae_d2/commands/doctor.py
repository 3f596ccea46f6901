"""Reports what is installed, how to get each missing package, and whether a model works.

The model is the small R-MAE shipped with the package: it predicts the hidden part of a picture. The exit
code is 1 if something needed for training is missing.
"""

import argparse
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from .. import __version__
from ..errors import UserError
from ..extras import how_to_install
from ..shipped import DEFAULT, shipped_file
from .install_detectron2 import age_problem, find_detectron2

Finding = tuple[str, str, bool]  # what, remedy if it is missing, whether training needs it

INSTALL = "pip install"
# Package, extra, and what it provides.
EXTRAS = (
    ("numba", "fast", "FH regions and region records compiled; else scikit-image and numpy"),
    ("simplejpeg", "fast", "JPEGs decoded with fewer copies; else Pillow"),
    ("ray", "ray", "regions made on a Ray cluster"),
    ("transformers", "sam", "masks of SAM, SAM 2 and SAM 3 as regions"),
    ("submitit", "slurm", "rmae-d2 submit"),
    ("onnx", "onnx", "rmae-d2 export"),
    ("onnxruntime", "onnx", "rmae-d2 export, and predict with what it wrote"),
    ("starlette", "demo", "rmae-d2 demo"),
    ("uvicorn", "demo", "rmae-d2 demo"),
    ("pyarrow", "embed", "rmae-d2 embed"),
    ("supervision", "supervision", "predictions as its Detections"),
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds no options."""


def run(args: argparse.Namespace) -> int:
    print(f"rmae_d2 {__version__}, Python {platform.python_version()} at {sys.executable}")
    good = True
    for line, remedy, needed in _findings():
        print(f"{'missing ' if remedy else 'ok      '} {line}")
        if remedy:
            print(f"         remedy: {remedy}")
        good = good and not (remedy and needed)
    return 0 if good else 1


def _findings() -> Iterator[Finding]:
    yield from _required()
    yield _detectron2()
    yield _device()
    yield from _extras()
    yield _shipped()


def _required() -> Iterator[Finding]:
    """Checks what the installed package requires."""
    try:
        texts = requires("rmae_d2") or []
    except PackageNotFoundError:
        yield "rmae_d2 as an installed package", f"{INSTALL} -e . in its repository", True
        texts = ["torch", "torchvision", "numpy"]
    for text in texts:
        if "extra ==" not in text:
            name = re.split(r"[<>=!~ ;(\[]", text)[0]
            found = _version(name)
            yield f"{name} {found}", "" if found else f"{INSTALL} '{text}'", True


def _detectron2() -> Finding:
    found = find_detectron2()
    if found is None:
        return "Detectron2", "rmae-d2 install-detectron2", True
    text, folder = found
    operators = "with" if any(folder.glob("_C.*")) else "without"
    line = f"Detectron2 {text} at {folder}, {operators} compiled operators"
    if problem := age_problem(folder):
        remedy = "pip uninstall detectron2, then rmae-d2 install-detectron2"
        return f"{line}: too old, {problem}", remedy, True
    return line, "", True


def _device() -> Finding:
    try:
        import torch
    except Exception as error:  # broken installations may raise anything
        return f"torch: {error}", f"{INSTALL} torch torchvision", True
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if names:
        return f"devices: {', '.join(names)}; CUDA {torch.version.cuda}", "", True
    built = "torch's build is for CPUs only" if torch.version.cuda is None else "torch sees no GPU"
    return f"devices: the CPU, {torch.get_num_threads()} threads ({built})", "", True


def _shipped() -> Finding:
    """Checks that the shipped weights load, and beat the mean colours on hidden parts of a scene."""
    reinstall = "reinstall rmae_d2 from its repository"
    try:
        shipped_file(DEFAULT)
        loss, hidden = _reconstruct()
    except UserError as error:
        return str(error), reinstall, False
    except Exception as error:  # broken installations may raise anything
        return f"{DEFAULT}: {error}", "what is missing above", False
    line = f"{DEFAULT} predicts the {hidden:.0%} hidden of a rendered scene: pixel loss {loss:.2f}"
    works = "" if loss < 1 else reinstall
    return f"{line}, each patch's own mean colour gives 1.00", works, False


def _reconstruct() -> tuple[float, float]:
    """Returns the model's pixel loss on a scene unseen in training, and its hidden fraction."""
    import numpy as np
    import torch
    from PIL import Image

    from ..data.scenes.render import render_scene
    from ..inference.finished_run import load_run

    _, model = load_run(DEFAULT, overrides=["train.device=cpu"])
    scene = render_scene(seed=0, index=0)
    high, wide = model.backbone.net.img_size
    image, *masks = (
        np.asarray(Image.fromarray(layer).resize((wide, high)))
        for layer in (scene.image, *scene.masks)
    )
    sample = {
        "image": torch.from_numpy(image.transpose(2, 0, 1).copy()),
        "regions": torch.from_numpy(np.stack(masks)),
        "mask_seed": 0,
    }
    with torch.no_grad():
        (output,) = model([sample])
    return float(output["loss_pixel"]), float(output["mask"].float().mean())


def _extras() -> Iterator[Finding]:
    for name, extra, what in EXTRAS:
        found = _version(name)
        yield f"{name} {found}: {what}", "" if found else how_to_install(extra), False


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
