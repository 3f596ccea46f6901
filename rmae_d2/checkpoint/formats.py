"""Read weights of other projects under our names: recognize them by their keys, then translate each key."""

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .containers import Found, StateDict, choose
from .names import ENCODER, our_names
from .plain import TOKENS_LEFT_OUT, make_plain
from .sharded import read_checkpoint
from .source import parse_source
from .weight_file import is_finite

logger = logging.getLogger(__name__)

# Names from rmae_d2 0.1: q, k and v in one tensor, in cross-attention too.
_OLD_ATTENTION = re.compile(
    r"^(region_branch\.decoder\.\d+\.)(self_attn|cross_attn)\.(in_proj_|out_proj\.)(weight|bias)$"
)


def load_weights(path_or_state_dict: str | Mapping[str, Any]) -> tuple[str, StateDict]:
    """Read weights in any known format.

    Args:
        path_or_state_dict: a file (``.pth``, ``.pt``, ``.bin``, ``.safetensors``, Detectron2's ``.pkl``, a
            shard index), a folder that holds a file with one of the usual names or was saved by an FSDP run,
            a URL or hub name (`source`), the content of such a file, or a plain state dict.
            For a file with several sets of weights, ``FILE?key=NAME`` selects one, see
            `choose`.

    Returns:
        the kind, one of ``"rmae_d2"``, ``"rmae_reference"``, ``"mae"``, ``"timm"``, ``"hf_vitmae"`` (any
        ViT of Hugging Face), ``"moco_v3"``, ``"mmpretrain"``, ``"detectron2"``; and the state dict under our
        names, its encoder a plain ViT (`plain`). Encoder-only MAE files and those of DINO, DINOv2, DeiT and
        I-JEPA have timm's keys and count as timm's. From MoCo v3's training checkpoints, the base encoder
        is taken. A classifier comes with its head, for
        `Classifier`.

    Raises:
        CheckpointError: the file is missing or broken, its keys are unknown, its ViT has no plain equivalent,
            or it contains non-finite numbers.
    """
    found = read_weights(path_or_state_dict)
    source = path_or_state_dict if isinstance(path_or_state_dict, str) else "the given state dict"
    weights, left_out = translate(found.kind, found.tensors, source)
    for reason in dict.fromkeys(left_out.values()):
        names = sorted(name for name, why in left_out.items() if why == reason)
        few = ", ".join(names[:2]) + ", ..." * (len(names) > 2)
        level = logging.WARNING if reason == TOKENS_LEFT_OUT else logging.INFO
        logger.log(level, "%s: %s: %s", source, few, reason)
    return found.kind, weights


def read_weights(path_or_state_dict: str | Mapping[str, Any]) -> Found:
    """Weights under the file's own names (updated for those of version 0.1); see `load_weights`."""
    key = None
    content, source = path_or_state_dict, "the given state dict"
    if isinstance(path_or_state_dict, str):
        source = path_or_state_dict
        content = read_checkpoint(source)
        key = parse_source(source).key
    found, besides = choose(content, source, key)
    if besides:  # may be a surprise, unless one was named
        logger.log(
            logging.WARNING if key is None else logging.INFO,
            "%s: taking the weights under %s; there are others, under %s, which 'FILE?key=NAME' takes",
            source,
            found.key or "(top level)",
            ", ".join(other.key or "(top level)" for other in besides),
        )
    if found.others:
        few = ", ".join(found.others[:4]) + ", ..." * (len(found.others) > 4)
        logger.info("%s: %d tensors beside the weights: %s", source, len(found.others), few)
    if found.kind == "rmae_d2":
        found = replace(found, tensors=_with_present_names(found.tensors))
    return found


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


def translate(kind: str, state_dict: StateDict, source: str) -> tuple[StateDict, dict[str, str]]:
    """Translate a state dict of a known kind to our names; also return, by our name, why tensors are dropped.

    Raises:
        CheckpointError: it is incomplete or contradictory, contains non-finite numbers, or its ViT has no
            plain equivalent.
    """
    sources: dict[str, list[str]] = {}
    for key, name in our_names(kind, state_dict).items():
        sources.setdefault(name, []).append(key)
    check_finite({key: state_dict[key] for keys in sources.values() for key in keys}, source)
    out = {}
    for name, keys in sources.items():
        if kind == "hf_vitmae" and ".attn.qkv." in name:
            out[name] = _join_qkv(name, keys, state_dict, source)
        elif len(keys) > 1:
            raise CheckpointError(
                f"{source}: {' and '.join(keys)} are two tensors for one place, {name}"
            )
        else:
            out[name] = _flat_table(name, state_dict[keys[0]])
    encoder = {n.removeprefix(ENCODER): t for n, t in out.items() if n.startswith(ENCODER)}
    encoder, reasons = make_plain(encoder, source, of_timm=kind == "timm")
    out = {n: t for n, t in out.items() if not n.startswith(ENCODER)}
    out |= {ENCODER + name: tensor for name, tensor in encoder.items()}
    table = out.get(f"{ENCODER}pos_embed")
    if table is not None and (table.dim() != 3 or len(table) != 1):
        raise CheckpointError(
            f"{source}: {sources[f'{ENCODER}pos_embed'][0]} is {tuple(table.shape)}, not (1, rows, width)"
        )
    # The reference keeps a row for a cls token, which the region encoder lacks.
    pos_embed = "region_branch.encoder.pos_embed"
    if kind == "rmae_reference" and pos_embed in out:
        out[pos_embed] = out[pos_embed][:, 1:]
    return out, {ENCODER + name: why for name, why in reasons.items()}


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        CheckpointError: names the tensors.
    """
    bad = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    if bad:
        few = ", ".join(bad[:4]) + ", ..." * (len(bad) > 4)
        raise CheckpointError(
            f"{source}: {len(bad)} of {len(tensors)} tensors hold NaN or infinite numbers ({few}): of a "
            "training that diverged, or damaged. Take another checkpoint; where you need none of these "
            "tensors, rmae-d2 convert --drop NAME leaves them out"
        )


def _flat_table(name: str, tensor: Tensor) -> Tensor:
    """Reshape a square position embedding of shape (1, side, side, D), such as SAM's, to (1, rows, D)."""
    if name.endswith("pos_embed") and tensor.dim() == 4 and tensor.shape[1] == tensor.shape[2]:
        return tensor.flatten(1, 2)
    return tensor


def _join_qkv(name: str, keys: list[str], state_dict: StateDict, source: str) -> Tensor:
    parts: dict[str, Tensor] = {}
    for key in keys:
        role = re.findall(r"\b([qkv])(?:uery|ey|alue|_proj)\.", key)[-1]
        if role in parts:
            raise CheckpointError(f"{source}: {' and '.join(keys)} are too many tensors for {name}")
        parts[role] = state_dict[key]
    words = {"k": "key", "q": "query", "v": "value"}
    lacking = ", ".join(word for role, word in words.items() if role not in parts)
    if lacking:
        raise CheckpointError(
            f"{source}: a Hugging Face ViT whose {name} lacks its {lacking}: incomplete"
        )
    shapes = [tuple(parts[role].shape) for role in "qkv"]
    if len(set(shapes)) > 1:
        raise CheckpointError(
            f"{source}: a Hugging Face ViT whose {name} has parts of shapes {shapes}"
        )
    return torch.cat([parts[role] for role in "qkv"])
