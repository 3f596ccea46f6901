"""Find the weights in a file: in which of its dicts, and behind which common prefix of their names.

They are found by content, as a ViT of a known kind, whatever the dicts around it are called.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .names import ENCODER, REGIONS
from .plain import foreign_part, refusal

StateDict = dict[str, Tensor]

_KNOWN = (
    "MAE, DINO, DINOv2, DeiT, I-JEPA, MoCo v3, SAM, the R-MAE reference code, ViTs of timm, Hugging Face, "
    "MMPretrain and Detectron2, and rmae_d2"
)
_HF_POSITIONS = "embeddings.position_embeddings"
# In each kind, the tensor name that marks the end of a common prefix.
_MM_PATCHES = "patch_embed.projection.weight"
_ANCHORS = ("patch_embed.proj.weight", _MM_PATCHES, _HF_POSITIONS)
_MAX_DEPTH = 8
_AVERAGES = {"teacher", "ema", "target", "momentum", "average", "averaged", "swa"}
_USUAL = ("model", "state_dict", "module", "net")
_STUDENTS = {"student", "online"}


@dataclass(frozen=True)
class Found:
    """Weights of a known kind.

    Attributes:
        key: the dicts that hold them and the prefix of their names, joined by dots; "" for neither.
        kind: see `load_weights`.
        tensors: by their names without the prefix.
        others: names of everything else in their dict.
    """

    key: str
    kind: str
    tensors: StateDict
    others: list[str] = field(default_factory=list)


def choose(content: Any, source: str, key: str | None = None) -> tuple[Found, list[Found]]:
    """Choose the weights to use among those in a file.

    A teacher or average comes first, then what is under ``model``, ``state_dict``, ``module`` or ``net``,
    then anything else, and a student last. One of our training checkpoints gives its ``model``, the weights
    that its run evaluated.

    Args:
        content: what the file holds.
        source: its name, for messages.
        key: a `Found.key`, or the beginning of one, that overrides this order.

    Returns:
        the chosen weights, and the others.

    Raises:
        CheckpointError: nothing is of a known kind, or two candidates rank equally.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{source}: holds a {type(content).__name__}, not named tensors")
    everything = list(_find(content))
    if not everything:
        names = (name for _, tensors, _ in _dicts_of_tensors(content) for name in tensors)
        part = foreign_part(names)
        if part is not None:
            raise refusal(source, part)
        raise CheckpointError(f"{source}: not weights of {_KNOWN}. It holds {_describe(content)}")
    keys = ", ".join(found.key or "(top level)" for found in everything)
    found = everything
    if key is not None:
        found = [f for f in everything if f.key == key or f.key.startswith(f"{key}.")]
        if not found:
            raise CheckpointError(f"{source}: no such key; weights are under {keys}")
    own = {"model", "trainer", "iteration"} <= content.keys()
    ranked = sorted(found, key=lambda f: _rank(f.key, own))
    if len(ranked) > 1 and _rank(ranked[0].key, own) == _rank(ranked[1].key, own):
        name = source.partition("?")[0]
        raise CheckpointError(
            f"{source}: holds several weights, and nothing says which are meant: {keys}. Name one: "
            f"'{name}?key={ranked[0].key}'"
        )
    return ranked[0], [f for f in everything if f is not ranked[0]]


def _rank(key: str, own: bool) -> int:
    if own and key == "model":
        return -1
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Za-z][a-z]*", key)}
    if words & _AVERAGES:
        return 0
    if words & _STUDENTS:
        return len(_USUAL) + 2
    beginning = [key == name or key.startswith(f"{name}.") for name in _USUAL]
    return 1 + (beginning.index(True) if any(beginning) else len(_USUAL))


def _find(content: Mapping[Any, Any]) -> Iterator[Found]:
    for path, tensors, unnamed in _dicts_of_tensors(content):
        whole: list[str] = []
        for prefix in _prefixes(tensors):
            if prefix.startswith(tuple(whole)):
                continue
            inner = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            kind = recognise(inner)
            if kind is not None:
                whole.append(prefix)
                others = [name for name in tensors if not name.startswith(prefix)]
                key = ".".join(filter(None, (*path, prefix.rstrip("."))))
                yield Found(key, kind, inner, others + unnamed)


def _dicts_of_tensors(
    node: Mapping[Any, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], StateDict, list[str]]]:
    """Yield the path of each dict, its tensors, and the keys of tensors whose key is not text."""
    tensors = {k: v for k, v in node.items() if isinstance(v, Tensor)}
    if tensors:
        named = {k: v for k, v in tensors.items() if isinstance(k, str)}
        yield path, named, [repr(k) for k in tensors if not isinstance(k, str)]
    if len(path) < _MAX_DEPTH:
        for name, value in node.items():
            if isinstance(value, Mapping):
                yield from _dicts_of_tensors(value, (*path, str(name)))


def _prefixes(names: StateDict) -> list[str]:
    """The prefixes of names behind which a network may be, shortest first."""
    found = set()
    for name in names:
        before, encoder, _ = name.partition(ENCODER)
        stem = before + "." if encoder else name if name.endswith(_ANCHORS) else None
        if stem is not None:
            parts = stem.split(".")
            found |= {"".join(f"{part}." for part in parts[:i]) for i in range(len(parts))}
    return sorted((p for p in found if p != "."), key=len)


def recognise(state_dict: StateDict) -> str | None:
    """The kind of a state dict, judged by its keys, or None; see `load_weights`."""
    keys = state_dict.keys()
    if any(k.startswith(ENCODER) for k in keys):
        ours = f"{ENCODER}cls_token" in keys or any(k.startswith(REGIONS) for k in keys)
        return "rmae_d2" if ours else "detectron2"
    if keys & {_HF_POSITIONS, f"vit.{_HF_POSITIONS}"}:
        return "hf_vitmae"
    if "region_cross_embed.weight" in keys:
        return "rmae_reference"
    if "base_encoder.patch_embed.proj.weight" in keys:
        return "moco_v3"
    if _MM_PATCHES in keys and any(k.startswith("layers.") for k in keys):
        return "mmpretrain"
    if "patch_embed.proj.weight" not in keys or not any(k.startswith("blocks.") for k in keys):
        return None
    if "decoder_embed.weight" in keys:
        return "mae"
    of_timm = ("cls_token", "norm.", "fc_norm.", "head.")
    return "timm" if any(k.startswith(of_timm) for k in keys) else "detectron2"


def _describe(content: Mapping[Any, Any]) -> str:
    """Describe what a file holds, for somebody looking for weights in it."""
    lines = []
    for path, named, unnamed in _dicts_of_tensors(content):
        names = [*named, *unnamed]
        few = ", ".join(names[:4]) + ", ..." * (len(names) > 4)
        where = f"in {'.'.join(path)}" if path else "at its top level"
        lines.append(f"{len(names)} tensor{'s' * (len(names) > 1)} {where} ({few})")
    for name, value in content.items():
        if not isinstance(value, Tensor) and not (isinstance(value, Mapping) and value):
            what = "empty" if isinstance(value, Mapping) else type(value).__name__
            lines.append(f"{name!s:.40} ({what})")
    few_lines = lines[:8] + [f"{len(lines) - 8} more"] * (len(lines) > 8)
    return "; ".join(few_lines) or "no entry at all"
