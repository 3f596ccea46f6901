"""Weights of other projects under our names.

A format is recognised by its keys, then translated key by key; nothing is dropped but classification heads.
Names: the pixel encoder is ``backbone.net.*``, the MAE decoder ``pixel_decoder.*``, R-MAE's branch
``region_branch.*``.
"""

import argparse
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from detectron2.utils.file_io import PathManager
from torch import Tensor

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
    (r"^region_dec_blocks\.0\.norm3\.", "region_branch.expansion.norm2."),
    (r"^region_dec_blocks\.0\.", "region_branch.expansion."),
    (r"^region_pred\.", "region_branch.pred."),
    *_MAE_RULES,
]
_HF_BLOCK: Rules = [
    (r"\battention\.output\.dense\.", "attn.proj."),
    (r"\battention\.o_proj\.", "attn.proj."),
    (r"\battention\.(?:attention\.)?(query|key|value)\.", r"attn.\1."),
    (r"\battention\.([qkv])_proj\.", r"attn.\1."),
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
    (r"^decoder\.decoder_layers\.", "pixel_decoder.blocks."),
    (r"^decoder\.mask_token$", "pixel_decoder.mask_token"),
    (r"^decoder\.decoder_(embed|pos_embed|norm|pred)\b", r"pixel_decoder.\1"),
]
_KNOWN = "MAE, the R-MAE reference code, timm, Hugging Face ViTMAE, Detectron2 and rmae_d2"


class CheckpointError(Exception):
    """A weight file that can't be read, recognised, or fitted to the model."""


def load_weights(path_or_state_dict: str | Mapping[str, Any]) -> tuple[str, StateDict]:
    """Reads weights in any known format.

    Args:
        path_or_state_dict: a file (``.pth``, ``.pt``, ``.safetensors``; local, or anything iopath opens; a
            Detectron2 query such as ``?matching_heuristics=True`` is not needed and ignored), what such a
            file holds, or a plain state dict.

    Returns:
        the kind, one of ``"rmae_d2"``, ``"rmae_reference"``, ``"mae"``, ``"timm"``, ``"hf_vitmae"``,
        ``"detectron2"``, and the state dict under our names. An encoder-only MAE file has timm's keys and
        is called so.

    Raises:
        CheckpointError: for a missing or broken file or unknown keys.
    """
    if isinstance(path_or_state_dict, str):
        content, source = read_file(path_or_state_dict), path_or_state_dict
    else:
        content, source = path_or_state_dict, "the given state dict"
    state_dict = _unwrap(content, source)
    kind = recognise(state_dict)
    if kind is None:
        raise CheckpointError(
            f"{source}: not weights of {_KNOWN}; its keys begin with "
            f"{', '.join(list(state_dict)[:4]) or '(nothing)'}"
        )
    return kind, _TRANSLATE[kind](state_dict)


def read_file(path: str) -> Any:
    """The content of a weight file, loaded without running code from it.

    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """
    path = path.partition("?")[0]
    try:
        local = PathManager.get_local_path(path)
        if local.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(local)
        # MAE's own files hold their command line.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(local, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such weight file") from error
    except Exception as error:  # torch, pickle, zip and safetensors each raise their own
        raise CheckpointError(
            f"{path}: not a readable weight file ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}). It may be cut short: "
            "copy or download it again, or take an earlier checkpoint"
        ) from error


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
    if "patch_embed.proj.weight" not in keys or not any(k.startswith("blocks.") for k in keys):
        return None
    if "decoder_embed.weight" in keys:
        return "mae"
    of_timm = ("cls_token", "norm.", "fc_norm.", "head.")
    return "timm" if any(k.startswith(of_timm) for k in keys) else "detectron2"


def _rename(state_dict: StateDict, rules: Rules) -> StateDict:
    """Applies the first rule that matches a key; keys that none matches keep their name."""
    renamed = {}
    for key, value in state_dict.items():
        for pattern, replacement in rules:
            new_key, hits = re.subn(pattern, replacement, key, count=1)
            if hits:
                key = new_key
                break
        renamed[key] = value
    return renamed


def _from_rmae(state_dict: StateDict) -> StateDict:
    if any(k.startswith("region_dec_blocks.1.") for k in state_dict):
        raise CheckpointError(
            "a reference checkpoint with region_dec_depth > 1: the names of its cross-attention blocks are "
            "not known to us, so it can't be translated; please report the list of its keys"
        )
    out = _rename(state_dict, _RMAE_RULES)
    # The reference keeps a row for a cls token that the region encoder has not.
    pos_embed = "region_branch.encoder.pos_embed"
    if pos_embed in out:
        out[pos_embed] = out[pos_embed][:, 1:]
    return out


def _from_timm(state_dict: StateDict) -> StateDict:
    kept = {k: v for k, v in state_dict.items() if not k.startswith(("head.", "fc_norm."))}
    return _rename(kept, _MAE_RULES)


def _from_hf(state_dict: StateDict) -> StateDict:
    kept = {k: v for k, v in state_dict.items() if not k.startswith("classifier.")}
    out = _rename(kept, _HF_RULES)
    for rule in _HF_BLOCK:
        out = _rename(out, [rule])
    for key in [k for k in out if re.search(r"\.attn\.(q|query)\.", k)]:
        short = ".attn.q." in key
        names = ("q", "k", "v") if short else ("query", "key", "value")
        stem, _, leaf = key.rpartition(f".{names[0]}.")
        parts = [f"{stem}.{name}.{leaf}" for name in names]
        missing = [part for part in parts if part not in out]
        if missing:
            raise CheckpointError(f"a Hugging Face ViT without {', '.join(missing)}: incomplete")
        out[f"{stem}.qkv.{leaf}"] = torch.cat([out.pop(part) for part in parts])
    return out


def _from_detectron2(state_dict: StateDict) -> StateDict:
    if any(k.startswith(_ENCODER) for k in state_dict):
        return dict(state_dict)
    return {_ENCODER + k: v for k, v in state_dict.items()}


_TRANSLATE: dict[str, Callable[[StateDict], StateDict]] = {
    "rmae_d2": dict,
    "rmae_reference": _from_rmae,
    "mae": lambda sd: _rename(sd, _MAE_RULES),
    "timm": _from_timm,
    "hf_vitmae": _from_hf,
    "detectron2": _from_detectron2,
}
