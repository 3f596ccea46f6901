"""Save converted weights as files."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save
from torch import Tensor

from ..config import load_config, save_config
from ..errors import CheckpointError
from ..files import atomic_file
from .convert import Conversion, convert
from .names import MASKING
from .source import local_path
from .weight_file import CHECKSUM, atomic_save, checksum

#: A run's config, stored beside its weights.
CONFIG = "config.yaml"

_ENDINGS = (".pth", ".pt", ".bin", ".safetensors")
# Targets whose files are loaded by software that cannot read safetensors.
_PICKLE_ONLY = {
    "detectron2": "Detectron2",
    "mmpretrain": "MMEngine",
    "mmsegmentation": "MMEngine",
}


def save_conversion(conversion: Conversion, path: str, force: bool = False) -> list[Path]:
    """Write converted weights in the layout of the target's own files.

    That is ``{"model": ...}`` for MAE and RMAE, and the bare tensors for timm, Hugging Face, MMPretrain and
    MMSegmentation. For Detectron2 it is ``{"model": ..., "matching_heuristics": True}`` with bare ViT names
    (``blocks.0...``), which its own checkpointer matches by suffix without a query string.

    A whole RMAE is accompanied by its run's config.yaml, if the input has one, so that everything that loads
    a run can load it. Absolute paths in it become null, and ``train.output_dir`` becomes output/ plus the
    folder's name.

    Returns:
        the files written.

    Raises:
        CheckpointError: tensors are refused, the file already exists, or it cannot be written.
    """
    if conversion.refused:
        name, why = next(iter(conversion.refused.items()))
        raise CheckpointError(
            f"{conversion.source}: {len(conversion.refused)} tensors refused, {path} not written; the first: "
            f"{name}: {why}"
        )
    check_output(path, conversion.target, force)
    config = _config_to_carry(conversion, path)
    if config and config[1].exists() and not force:
        raise CheckpointError(f"{config[1]}: already exists; --force overwrites it")
    _write(conversion, path)
    if config is None:
        return [Path(path)]
    write_config(load_config(config[0]), config[1])
    return [Path(path), config[1]]


def _write(conversion: Conversion, path: str) -> None:
    if "://" not in path:
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{path}: its folder can't be made ({error})") from error
    if path.endswith(".safetensors"):
        return write_safetensors(conversion.tensors, path)
    content: dict[str, Any] = conversion.tensors
    if conversion.target in ("mae", "rmae", "detectron2"):
        content = {"model": content}
    if conversion.target == "detectron2":
        content |= {"matching_heuristics": True, "__author__": "rmae_d2"}
    atomic_save(content, path)


def write_safetensors(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Write tensors, each with its own memory, and their checksum."""
    own = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    data = save(own, metadata={"format": "pt", CHECKSUM: checksum(own)})
    with atomic_file(path) as file:
        file.write(data)


def _config_to_carry(conversion: Conversion, path: str) -> tuple[Path, Path] | None:
    """The config.yaml of the run that a whole converted model belongs to, and its place beside that model.

    None if there is none, if it is already in place, or if it names a part that was not taken.
    """
    whole = not any(name.startswith(MASKING) for name in conversion.not_taken)
    if (conversion.kind, conversion.target) != ("rmae_d2", "rmae") or not whole or "://" in path:
        return None
    try:
        theirs = local_path(conversion.source).absolute().parent / CONFIG
    except CheckpointError:  # it is a state dict
        return None
    ours = Path(path).absolute().parent / CONFIG
    return (theirs, ours) if theirs.is_file() and theirs != ours else None


def _without_places(value: Any) -> Any:
    """Replace the absolute paths in a config, which belong to its run's machine, with null."""
    if isinstance(value, dict):
        return {key: _without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    return None if isinstance(value, str) and os.path.isabs(value) else value


def write_config(cfg: DictConfig, path: Path) -> None:
    """Write a run's config for sharing: without absolute paths, the output folder named after the file's."""
    plain = _without_places(OmegaConf.to_container(cfg))
    if "output_dir" in plain.get("train", {}):
        plain["train"]["output_dir"] = f"output/{path.parent.name}"  # other keys refer to it
    save_config(OmegaConf.create(plain, flags={"allow_objects": True}), path)


def check_output(path: str, target: str, force: bool = False) -> None:
    """Refuse an impossible output path before any work is done."""
    if not path.endswith(_ENDINGS):
        raise CheckpointError(f"{path}: an output ends in {', '.join(_ENDINGS)}")
    if target in _PICKLE_ONLY and path.endswith(".safetensors"):
        raise CheckpointError(
            f"{path}: {_PICKLE_ONLY[target]} does not read safetensors; write a .pth"
        )
    if os.path.isdir(path):
        raise CheckpointError(f"{path}: is a folder; name a file in it")
    if os.path.exists(path) and not force:
        raise CheckpointError(f"{path}: already exists; --force overwrites it")


def export_backbone(weights: str | Mapping[str, Any], path: str) -> list[str]:
    """Write the pixel encoder for a plain Detectron2 ViTDet, overwriting any existing file.

    The final norm is left out, because its name would match a norm of ViTDet's pyramid; so is the cls token,
    which ViTDet lacks. Detectron2's ViT has a square position embedding, so one for wide images is resampled
    to the square with about as many patches.

    Returns:
        the names written.

    Raises:
        CheckpointError: the encoder is incomplete or of another kind, or the file cannot be written.
    """
    conversion = convert(weights, "detectron2")
    grid = conversion.grid
    if grid and grid[0] != grid[1]:
        side = round((grid[0] * grid[1]) ** 0.5)
        conversion = convert(weights, "detectron2", grid=(side, side))
    save_conversion(conversion, path, force=True)
    return sorted(conversion.tensors)
