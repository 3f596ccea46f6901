"""Weights of other projects under our names: recognised by their keys, then translated key by key."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .names import ENCODER, REGIONS, our_names
from .sharded import read_checkpoint

StateDict = dict[str, Tensor]

# Ours of rmae_d2 0.1: q, k and v in one tensor, in cross-attention too.
_OLD_ATTENTION = re.compile(
    r"^(region_branch\.decoder\.\d+\.)(self_attn|cross_attn)\.(in_proj_|out_proj\.)(weight|bias)$"
)
_KNOWN = "MAE, the R-MAE reference code, MoCo v3, timm, Hugging Face ViTMAE, Detectron2 and rmae_d2"


def load_weights(path_or_state_dict: str | Mapping[str, Any]) -> tuple[str, StateDict]:
    """Reads weights in any known format.

    Args:
        path_or_state_dict: a file (``.pth``, ``.pt``, ``.safetensors``, Detectron2's ``.pkl``; local, or
            anything iopath opens; a Detectron2 query such as ``?matching_heuristics=True`` is not needed
            and ignored), a folder that an FSDP run saved, what such a file holds, or a plain state dict.

    Returns:
        the kind, one of ``"rmae_d2"``, ``"rmae_reference"``, ``"mae"``, ``"timm"``, ``"hf_vitmae"``,
        ``"moco_v3"``, ``"detectron2"``, and the state dict under our names. An encoder-only MAE file and
        DINO's have timm's keys and are called so. Of MoCo v3's training checkpoints the base encoder is
        taken. A classifier comes with its head, for
        :class:`~rmae_d2.modeling.transfer.classifier.Classifier`.

    Raises:
        CheckpointError: for a missing or broken file or unknown keys.
    """
    kind, state_dict = read_weights(path_or_state_dict)
    return kind, translate(kind, state_dict)


def read_weights(path_or_state_dict: str | Mapping[str, Any]) -> tuple[str, StateDict]:
    """The kind of weights and their tensors under the file's own names, of ours of 0.1 under the present."""
    if isinstance(path_or_state_dict, str):
        content, source = read_checkpoint(path_or_state_dict), path_or_state_dict
    else:
        content, source = path_or_state_dict, "the given state dict"
    state_dict = _unwrap(content, source)
    kind = recognise(state_dict)
    if kind is None:
        raise CheckpointError(
            f"{source}: not weights of {_KNOWN}; its keys begin with "
            f"{', '.join(list(state_dict)[:4]) or '(nothing)'}"
        )
    return kind, _with_present_names(state_dict) if kind == "rmae_d2" else state_dict


def _unwrap(content: Any, source: str) -> StateDict:
    for key in ("model", "state_dict", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{source}: holds a {type(content).__name__}, not named tensors")
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    if tensors and all(k.startswith("module.") for k in tensors):
        tensors = {k.removeprefix("module."): v for k, v in tensors.items()}
    return tensors


def recognise(state_dict: StateDict) -> str | None:
    """The kind of a state dict by its keys, or None; see :func:`load_weights`."""
    keys = state_dict.keys()
    if any(k.startswith(ENCODER) for k in keys):
        ours = f"{ENCODER}cls_token" in keys or any(k.startswith(REGIONS) for k in keys)
        return "rmae_d2" if ours else "detectron2"
    if any(k.endswith("embeddings.position_embeddings") for k in keys):
        return "hf_vitmae"
    if "region_cross_embed.weight" in keys:
        return "rmae_reference"
    if "base_encoder.patch_embed.proj.weight" in keys:
        return "moco_v3"
    if "patch_embed.proj.weight" not in keys or not any(k.startswith("blocks.") for k in keys):
        return None
    if "decoder_embed.weight" in keys:
        return "mae"
    of_timm = ("cls_token", "norm.", "fc_norm.", "head.")
    return "timm" if any(k.startswith(of_timm) for k in keys) else "detectron2"


def _with_present_names(state_dict: StateDict) -> StateDict:
    out = {}
    for key, tensor in state_dict.items():
        match = _OLD_ATTENTION.match(key)
        if match is None:
            out[key] = tensor
            continue
        block, role, part, leaf = match.groups()
        attn = block + role.removeprefix("self_")
        if part == "out_proj.":
            out[f"{attn}.proj.{leaf}"] = tensor
        elif role == "self_attn":
            out[f"{attn}.qkv.{leaf}"] = tensor
        else:
            third = len(tensor) // 3
            out[f"{attn}.q.{leaf}"], out[f"{attn}.kv.{leaf}"] = tensor[:third], tensor[third:]
    return out


def translate(kind: str, state_dict: StateDict) -> StateDict:
    """A state dict of a known kind under our names."""
    sources: dict[str, list[str]] = {}
    for key, name in our_names(kind, state_dict).items():
        sources.setdefault(name, []).append(key)
    out = {}
    for name, keys in sources.items():
        if kind == "hf_vitmae" and ".attn.qkv." in name:
            out[name] = _join_qkv(name, keys, state_dict)
        elif len(keys) > 1:
            raise CheckpointError(f"{' and '.join(keys)} are two tensors for one place, {name}")
        else:
            out[name] = state_dict[keys[0]]
    # The reference keeps a row for a cls token that the region encoder has not.
    pos_embed = "region_branch.encoder.pos_embed"
    if kind == "rmae_reference" and pos_embed in out:
        out[pos_embed] = out[pos_embed][:, 1:]
    return out


def _join_qkv(name: str, keys: list[str], state_dict: StateDict) -> Tensor:
    parts: dict[str, Tensor] = {}
    for key in keys:
        role = re.findall(r"\b([qkv])(?:uery|ey|alue|_proj)\.", key)[-1]
        if role in parts:
            raise CheckpointError(f"{' and '.join(keys)} are too many tensors for {name}")
        parts[role] = state_dict[key]
    words = {"k": "key", "q": "query", "v": "value"}
    lacking = ", ".join(word for role, word in words.items() if role not in parts)
    if lacking:
        raise CheckpointError(f"a Hugging Face ViT whose {name} lacks its {lacking}: incomplete")
    shapes = [tuple(parts[role].shape) for role in "qkv"]
    if len(set(shapes)) > 1:
        raise CheckpointError(f"a Hugging Face ViT whose {name} has parts of shapes {shapes}")
    return torch.cat([parts[role] for role in "qkv"])
