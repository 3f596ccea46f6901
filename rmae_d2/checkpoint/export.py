"""Converted weights as files."""

import os
from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError
from ..files import atomic_file
from .convert import Conversion, convert
from .weight_file import CHECKSUM, atomic_save, checksum

_ENDINGS = (".pth", ".pt", ".bin", ".safetensors")


def save_conversion(conversion: Conversion, path: str, force: bool = False) -> None:
    """Writes converted weights the way the target's own files are.

    ``{"model": ...}`` for MAE and RMAE, the bare tensors for timm and Hugging Face. For Detectron2
    ``{"model": ..., "matching_heuristics": True}`` with bare ViT names (``blocks.0...``), which its own
    checkpointer matches by suffix without a query string.

    Raises:
        CheckpointError: where tensors are refused, the file is there, or it can't be written.
    """
    if conversion.refused:
        name, why = next(iter(conversion.refused.items()))
        raise CheckpointError(
            f"{conversion.source}: {len(conversion.refused)} tensors refused, {path} not written; the first: "
            f"{name}: {why}"
        )
    check_output(path, conversion.target, force)
    if "://" not in path:
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{path}: its folder can't be made ({error})") from error
    if path.endswith(".safetensors"):
        try:
            from safetensors.torch import save
        except ImportError as error:
            raise CheckpointError(
                "writing .safetensors needs the package safetensors: pip install safetensors, or name a .pth"
            ) from error
        metadata = {"format": "pt", CHECKSUM: checksum(conversion.tensors)}
        data = save(conversion.tensors, metadata=metadata)
        with atomic_file(path) as file:
            file.write(data)
        return
    content: dict[str, Any] = conversion.tensors
    if conversion.target in ("mae", "rmae", "detectron2"):
        content = {"model": content}
    if conversion.target == "detectron2":
        content |= {"matching_heuristics": True, "__author__": "rmae_d2"}
    atomic_save(content, path)


def check_output(path: str, target: str, force: bool = False) -> None:
    """Refuses a path that no file can be written to, before the work is done."""
    if not path.endswith(_ENDINGS):
        raise CheckpointError(f"{path}: an output ends in {', '.join(_ENDINGS)}")
    if target == "detectron2" and path.endswith(".safetensors"):
        raise CheckpointError(f"{path}: Detectron2 reads no safetensors; write a .pth")
    if os.path.isdir(path):
        raise CheckpointError(f"{path}: is a folder; name a file in it")
    if os.path.exists(path) and not force:
        raise CheckpointError(f"{path}: is there already; --force overwrites it")


def export_backbone(weights: str | Mapping[str, Any], path: str) -> list[str]:
    """Writes the pixel encoder for a plain Detectron2 ViTDet, over a file that may be there.

    The final norm is left out: its name would match a norm of ViTDet's pyramid; so is the cls token, which
    ViTDet has not. Detectron2's ViT has a square position embedding, so that of a wide image is resampled
    to the square of as many patches.

    Returns:
        the names written.

    Raises:
        CheckpointError: where the encoder is incomplete or of another kind, or can't be written.
    """
    conversion = convert(weights, "detectron2")
    grid = conversion.grid
    if grid and grid[0] != grid[1]:
        side = round((grid[0] * grid[1]) ** 0.5)
        conversion = convert(weights, "detectron2", grid=(side, side))
    save_conversion(conversion, path, force=True)
    return sorted(conversion.tensors)
