"""Weights of other projects under our names.

A format is recognised by its keys, then translated key by key; nothing is dropped but Hugging Face's pooler
and what MoCo v3 trains beside its encoder.
Names: the pixel encoder is ``backbone.net.*``, the MAE decoder ``pixel_decoder.*``, R-MAE's branch
``region_branch.*``, a classifier's head ``head.*`` and, behind mean pooling, ``fc_norm.*``.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .sharded import read_checkpoint

StateDict = dict[str, Tensor]
Rules = list[tuple[str, str]]

_ENCODER = "backbone.net."
_VIT = r"(cls_token|dist_token|pos_embed|reg_token|patch_embed\.|norm_pre\.|blocks\.|norm\.)"

_MAE_RULES: Rules = [
    (r"^decoder_(embed|pos_embed|blocks|norm|pred)\b", r"pixel_decoder.\1"),
    (r"^mask_token$", "pixel_decoder.mask_token"),
    (rf"^{_VIT}", rf"{_ENCODER}\1"),
]
_RMAE_RULES: Rules = [
    (r"^region_cross_(embed|mask_token|pos_embed|blocks)\b", r"region_branch.neck.\1"),
    (r"^region_dec_norm\.", "region_branch.neck.norm."),
    (r"^region_(patch_embed|pos_embed)\b", r"region_branch.encoder.\1"),
    (r"^region_enc_blocks\.", "region_branch.encoder.blocks."),
    (r"^region_proj\.", "region_branch.query."),
    (r"^region_dec_blocks\.", "region_branch.decoder."),
    (r"^region_pred\.", "region_branch.pred."),
    *_MAE_RULES,
]
_HF_BLOCK: Rules = [
    (r"\battention\.output\.dense\.", "attn.proj."),
    (r"\battention\.o_proj\.", "attn.proj."),
    (r"\battention\.(?:attention\.)?(?:query|key|value)\.", "attn.qkv."),
    (r"\battention\.[qkv]_proj\.", "attn.qkv."),
    (r"\blayernorm_before\.", "norm1."),
    (r"\blayernorm_after\.", "norm2."),
    (r"\bintermediate\.dense\.", "mlp.fc1."),
    (r"(?<!attention\.)\boutput\.dense\.", "mlp.fc2."),
]
_HF_RULES: Rules = [
    (r"^(?:vit\.)?embeddings\.cls_token$", f"{_ENCODER}cls_token"),
    (r"^(?:vit\.)?embeddings\.position_embeddings$", f"{_ENCODER}pos_embed"),
    (r"^(?:vit\.)?embeddings\.patch_embeddings\.projection\.", f"{_ENCODER}patch_embed.proj."),
    (r"^(?:vit\.)?(?:encoder\.layer|layers)\.", f"{_ENCODER}blocks."),
    (r"^(?:vit\.)?layernorm\.", f"{_ENCODER}norm."),
    # transformers 5 loads the one and saves the other.
    (r"^decoder\.(?:decoder_layers|decoder_encoder\.layer)\.", "pixel_decoder.blocks."),
    (r"^decoder\.mask_token$", "pixel_decoder.mask_token"),
    (r"^decoder\.decoder_(embed|pos_embed|norm|pred)\b", r"pixel_decoder.\1"),
    (r"^classifier\.", "head."),
]
# MoCo v3's training checkpoints: the encoder that its authors transfer, without its projector.
_MOCO = re.compile(r"^base_encoder\.(?!head\.)")
# The last block of the reference's region decoder, our expansion block, by a layer that it alone has.
_RMAE_EXPANSION = re.compile(r"^(region_dec_blocks\.\d+\.)proj\.weight$")
# Ours of rmae_d2 0.1: q, k and v in one tensor, in cross-attention too.
_OLD_ATTENTION = re.compile(
    r"^(region_branch\.decoder\.\d+\.)(self_attn|cross_attn)\.(in_proj_|out_proj\.)(weight|bias)$"
)
# A layer that classifiers of Hugging Face leave out too.
_HF_POOLER = re.compile(r"^(vit\.)?pooler\.")
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
    """The kind of weights and their tensors under the file's own names; see :func:`load_weights`.

    Of our own files those of 0.1 come under the present names.
    """
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
    if any(k.startswith(_ENCODER) for k in keys):
        ours = f"{_ENCODER}cls_token" in keys or any(k.startswith("region_branch.") for k in keys)
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


def our_names(kind: str, keys: Iterable[str]) -> dict[str, str]:
    """What each tensor of a file is called with us.

    The q, k and v of Hugging Face share one name. Left out are its pooler, which nobody needs, and all of
    MoCo v3's but the base encoder; a name that no rule knows stays as it is, as those of timm's heads, which
    are ours.
    """
    keys = list(keys)
    if kind == "rmae_d2" or (kind == "detectron2" and any(k.startswith(_ENCODER) for k in keys)):
        return {key: key for key in keys}
    if kind == "detectron2":
        return {key: _ENCODER + key for key in keys}
    if kind == "hf_vitmae":
        names = {key: rename(key, _HF_RULES) for key in keys if not _HF_POOLER.search(key)}
        for rule in _HF_BLOCK:
            names = {key: rename(name, [rule]) for key, name in names.items()}
        return names
    if kind == "moco_v3":
        return {key: _MOCO.sub(_ENCODER, key) for key in keys if _MOCO.match(key)}
    rules = _RMAE_RULES if kind == "rmae_reference" else _MAE_RULES
    for match in filter(None, map(_RMAE_EXPANSION.match, keys)):
        block = "^" + re.escape(match[1])
        rules = [
            (block + r"norm3\.", "region_branch.expansion.norm2."),
            (block, "region_branch.expansion."),
            *rules,
        ]
    return {key: rename(key, rules) for key in keys}


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


def rename(key: str, rules: Rules) -> str:
    """The key after the first rule that matches it, or as it is."""
    for pattern, replacement in rules:
        new_key, hits = re.subn(pattern, replacement, key, count=1)
        if hits:
            return new_key
    return key


def translate(kind: str, state_dict: StateDict) -> StateDict:
    """A state dict of a known kind under our names.

    Raises:
        CheckpointError: where parts of one tensor are missing, or two tensors claim one name.
    """
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
        role = re.findall(r"\b(query|key|value|[qkv])(?:_proj)?\.", key)[-1][0]
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
