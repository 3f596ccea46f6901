"""Convert weights from one project's format to another's, accounting for every tensor.

Every tensor of the input ends up in one of the first three lists; every tensor that the target has but the
input lacks is refused or new:

  copied          bit for bit, except for position embeddings, which may be resized, layers that a LayerScale
                  is folded into, and half precision on request
  not taken       parts that the target lacks by design: its network is the same without them, or the reason
                  says what differs
  refused         no place in the target, or the wrong shape; or a missing encoder tensor. Leaving these out
                  would change what the network computes, so nothing is written
  new by design   in the target, but not in the input
"""

import importlib.metadata
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..modeling.patches import grid_of
from .containers import StateDict
from .encoder import Shapes, encoder_sizes, expected_shapes
from .formats import read_weights, translate
from .names import (
    DECODER,
    ENCODER,
    MASKING,
    REGIONS,
    REGIONS_TO_PIXELS,
    TARGETS,
    our_names,
    target_name,
)
from .positions import Grid, grid_of_table, resample_table
from .weight_file import is_finite

_POS_EMBED = ENCODER + "pos_embed"
_CLS_TOKEN = ENCODER + "cls_token"
_NORM = (ENCODER + "norm.weight", ENCODER + "norm.bias")
_REL_POS = re.compile(r"\.attn\.rel_pos_[hw]$")
_OF_VITDET = re.compile(r"^backbone\.net\.blocks\.\d+\.(attn\.rel_pos_[hw]$|residual\.)")
# Parts of our models that have a cls token in their ViT.
_OF_TRANSFER = re.compile(
    r"^(backbone\.(?!net\.)|proposal_generator\.|roi_heads\.|sem_seg_head\.|head\.|fc_norm\.)"
)
_CLASSIFIER = re.compile(r"^(head|head_dist|fc_norm|attn_pool)\.")
# What our_names leaves out.
_NEVER_TAKEN = {
    "hf_vitmae": "a pooler or mask token",
    "timm": "a mask token",
    "mmpretrain": "a mask token",
    "moco_v3": "projector, predictor and momentum encoder",
}
# Kinds whose position embedding always has a row for the cls token.
_WITH_CLS_ROW = ("rmae_d2", "rmae_reference", "mae", "hf_vitmae", "moco_v3")


@dataclass
class Conversion:
    """The outcome: tensors under the target's names, and what became of each.

    ``copied`` and ``new`` hold names of the target, ``not_taken`` and ``refused`` names of the input (or our
    names for missing tensors); all but ``copied`` map to a reason. ``grid`` is None if unknown.
    """

    source: str
    kind: str
    target: str
    network: str = ""
    grid: Grid | None = None
    rounded: float | None = None  #: largest rounding error, if in half precision
    tensors: StateDict = field(default_factory=dict)
    copied: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    not_taken: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.source} (recognised as {self.kind}) -> {self.target}: {self.network}"]
        for title, names in (
            ("copied", dict.fromkeys(self.copied, "")),
            ("position embeddings changed", self.resized),
            ("new by design (the target's, not in the input)", self.new),
            ("not taken by design (the input's, not in the target)", self.not_taken),
        ):
            if names or title == "copied":
                lines += [f"{title}: {len(names)}", *_grouped(names)]
        if self.rounded is not None:
            lines.append(f"rounded to half precision (fp16), by at most {self.rounded:.2g}")
        lines.append(f"refused: {len(self.refused)}")
        lines += [f"  {name}: {why}" for name, why in self.refused.items()]
        return "\n".join(lines)


def convert(
    weights: str | Mapping[str, Any],
    to: str,
    grid: Grid | None = None,
    img_size: Grid | None = None,
    drop: Sequence[str] = (),
    fill: bool = False,
    transformers: int | None = None,
    half: bool = False,
) -> Conversion:
    """Convert weights; writes nothing.

    Args:
        weights: anything that `rmae_d2.checkpoint.load_weights` accepts.
        to: ``"detectron2"`` (the backbone only), ``"mae"`` (the official names), ``"rmae"`` (ours),
            ``"timm"``, ``"huggingface"`` (ViTMAE and ViT), ``"dinov2"`` (Hugging Face's Dinov2),
            ``"mmpretrain"`` or ``"mmsegmentation"``.
        grid: (Gh, Gw) to resize the position embeddings to; unchanged by default.
        img_size: (H, W) in pixels, an alternative to ``grid``.
        drop: shell patterns (``*.rel_pos_h``) of input names to leave out deliberately.
        fill: create a cls token (normal, std 0.02, fixed seed) and a final norm (identity) if the target
            has them but the input does not, so that the file can be trained further.
        transformers: major version that determines Hugging Face names: 4 (also the hub's), or 5, which reads
            both; None for the installed version, or 4 if there is none.
        half: store floats as float16, half the file size; ``load_state_dict`` converts them back to float32,
            as does ``from_pretrained`` of transformers 5 with ``dtype=torch.float32``.

    Returns:
        the conversion; check its ``refused`` before using its ``tensors``.

    Raises:
        CheckpointError: the input is not weights of a known kind, or a request cannot be met.
    """
    if to not in TARGETS:
        raise CheckpointError(f"unknown target {to!r}: one of {', '.join(TARGETS)}")
    source = weights if isinstance(weights, str) else "the given state dict"
    found = read_weights(weights)
    kind, given = found.kind, found.tensors
    out = Conversion(source, kind, to)
    out.not_taken.update(dict.fromkeys(found.others, "beside the weights, under other names"))
    for pattern in drop:
        hits = [key for key in given if fnmatch(key, pattern)]
        if not hits:
            raise CheckpointError(f"{source}: no tensor is called like {pattern!r}")
        out.not_taken.update(dict.fromkeys(hits, "left out as asked"))
    given = {key: value for key, value in given.items() if key not in out.not_taken}
    names = our_names(kind, given)
    out.not_taken |= {key: _NEVER_TAKEN[kind] for key in given if key not in names}
    # One of q, k and v stands for all three.
    theirs = {name: key for key, name in reversed(names.items())}
    taken = {}
    ours, left_out = translate(kind, given, source)
    out.not_taken |= {theirs[name]: why for name, why in left_out.items()}
    for name, tensor in ours.items():
        reason = _leave_out(out, name, tensor)
        if reason is None:
            taken[name] = tensor
        else:
            out.not_taken[theirs.get(name, name)] = reason
    cls_rows = _cls_rows(kind, taken)
    if fill:
        _fill(out, taken)
    _check(out, taken, theirs, cls_rows)
    if not out.refused:
        _fit_tables(out, taken, cls_rows, grid, img_size)
        if to == "dinov2":
            _add_parts_of_dinov2(out, taken)
    _name(out, taken, _transformers_version() if transformers is None else transformers)
    if half:
        _halve(out)
    if out.refused:
        out.tensors.clear()  # half a network is useless
    return out


def _leave_out(out: Conversion, name: str, tensor: Tensor) -> str | None:
    """Why one of our tensors has no place in the target by design; None if it has one, or should."""
    target = TARGETS[out.target]
    if name.startswith(ENCODER):
        if not target.cls_token and name in (_CLS_TOKEN, *_NORM):
            return f"{target.whole} has none"
        if target.name != "detectron2" and _REL_POS.search(name) and not tensor.any():
            return "relative positions, all zero: no loss"
        return None
    if name.startswith(DECODER):
        return None if target.decoder else f"the pixel decoder: {target.whole} is an encoder"
    if name.startswith(REGIONS):
        return None if target.regions else f"the region branch: {target.whole} has none"
    if name.startswith(REGIONS_TO_PIXELS) and not target.regions:
        return f"what regions tell the pixel decoder: {target.whole} has none"
    if name.startswith(MASKING):
        return "the masking policy, which training alone needs"
    if out.kind in ("timm", "hf_vitmae", "mmpretrain") and _CLASSIFIER.match(name):
        return "a classification head"
    if out.kind == "detectron2" or (out.kind == "rmae_d2" and _OF_TRANSFER.match(name)):
        return "another part of the model than its ViT"
    return None


def _fill(out: Conversion, taken: StateDict) -> None:
    """Create the cls token and the final norm."""
    like = taken.get(_POS_EMBED)
    if like is None or not TARGETS[out.target].cls_token:
        return
    dim = like.shape[-1]
    if _CLS_TOKEN not in taken:
        random = torch.Generator().manual_seed(0)
        cls_token = torch.empty(1, 1, dim).normal_(std=0.02, generator=random)
        taken[_CLS_TOKEN] = cls_token.to(like.dtype)
        out.new[_CLS_TOKEN] = "made up as asked: normal, std 0.02"
    if not any(name in taken for name in _NORM):
        taken[_NORM[0]], taken[_NORM[1]] = like.new_ones(dim), like.new_zeros(dim)
        out.new.update(dict.fromkeys(_NORM, "made up as asked: identity"))


def _add_parts_of_dinov2(out: Conversion, taken: StateDict) -> None:
    """Add LayerScale and a mask token with values that leave the features unchanged."""
    like = taken[_POS_EMBED]
    dim = like.shape[-1]
    mask_token = ENCODER + "mask_token"
    taken[mask_token] = like.new_zeros(1, dim)
    out.new[mask_token] = "zeros: only masked training uses it"
    for block in range(encoder_sizes(taken)["depth"]):
        for name in ("ls1", "ls2"):
            gamma = f"{ENCODER}blocks.{block}.{name}.gamma"
            taken[gamma] = like.new_ones(dim)
            out.new[gamma] = "LayerScale of ones: the features stay the same"


def _cls_rows(kind: str, taken: StateDict) -> int:
    """Number of cls rows in the encoder's position embedding."""
    without = kind == "hf_vitmae" and _CLS_TOKEN not in taken  # as in I-JEPA
    if (kind in _WITH_CLS_ROW and not without) or _POS_EMBED not in taken:
        return 1
    try:
        return grid_of_table(taken[_POS_EMBED])[1]
    except CheckpointError:  # learned on a wide grid
        return int(_CLS_TOKEN in taken)


def _check(out: Conversion, taken: StateDict, theirs: dict[str, str], cls_rows: int) -> None:
    """Remove and refuse what has no place in the target's network, and find what it has in addition."""
    if _POS_EMBED in taken:
        length = taken[_POS_EMBED].shape[1] - cls_rows
    else:  # from the decoder's table if the encoder's is missing, which is refused below
        table = taken.get(DECODER + "pos_embed")
        length = 1 if table is None or table.dim() != 3 else table.shape[1] - 1
    try:
        sizes = encoder_sizes(taken)
        shapes = expected_shapes(taken, length, out.kind == "rmae_reference")
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"{out.source}: {error}") from error
    shapes[_POS_EMBED] = (1, length + cls_rows, sizes["embed_dim"])
    named = ("embed_dim", "depth", "patch_size", "in_chans")
    out.network = ", ".join(f"{name} {sizes[name]}" for name in named)
    _find_missing(out, taken, shapes)
    for name in list(taken):
        problem = _problem(out, name, taken[name], shapes, length)
        if problem:
            out.refused[theirs.get(name, name)] = problem
            del taken[name]


def _problem(out: Conversion, name: str, tensor: Tensor, shapes: Shapes, length: int) -> str | None:
    """Why a tensor cannot be taken, or None."""
    whole = TARGETS[out.target].whole
    shape = tuple(tensor.shape)
    if name in shapes:
        return None if shape == shapes[name] else f"is {shape}, should be {shapes[name]}"
    if out.target == "detectron2" and _OF_VITDET.match(name):
        return None
    if _REL_POS.search(name):
        return (
            f"relative positions, which {whole} has not: its features would differ; "
            "--drop '*.rel_pos_?' leaves them out all the same"
        )
    if out.kind == "rmae_d2" and name.startswith(REGIONS):  # ours to ours, whatever the variant
        rows = (length, 1 + length)
        fits = not name.endswith("pos_embed") or (len(shape) == 3 and shape[1] in rows)
        return None if fits else f"is {shape}, for {length} patches"
    return f"{whole} has no such part"


def _find_missing(out: Conversion, taken: StateDict, shapes: Shapes) -> None:
    target = TARGETS[out.target]
    without_norm = not any(name in taken for name in _NORM)
    for name in shapes.keys() - taken.keys():
        optional = name == _CLS_TOKEN or (name in _NORM and without_norm)
        if not optional:
            out.refused[name] = "not in the input, which is incomplete"
        elif target.cls_token:
            out.new[name] = "not in the input; --fill makes one up"
    if target.decoder and not any(name.startswith(DECODER) for name in taken):
        out.new[DECODER + "*"] = "the pixel decoder"
    if target.regions and not any(name.startswith(REGIONS) for name in taken):
        out.new[REGIONS + "*"] = "the region branch"
    if target.name == "detectron2" and not any(_REL_POS.search(name) for name in taken):
        rel_pos = ENCODER + "blocks.*.attn.rel_pos_[hw]"
        out.new[rel_pos] = "relative positions, where the ViT has them"
    out.new = dict(sorted(out.new.items()))
    out.refused = dict(sorted(out.refused.items()))


def _fit_tables(
    out: Conversion, taken: StateDict, cls_rows: int, grid: Grid | None, img_size: Grid | None
) -> None:
    """Give the position embeddings the target's grid and cls row."""
    target = TARGETS[out.target]
    try:
        out.grid, _ = grid_of_table(taken[_POS_EMBED], (cls_rows,))
    except CheckpointError as error:
        if grid or img_size:
            raise CheckpointError(f"{out.source}: can't be resized: {error}") from error
    old = out.grid
    if img_size:
        grid = grid_of(img_size, encoder_sizes(taken)["patch_size"])
    new = out.grid = grid or old
    if target.square and (new is None or new[0] != new[1]):
        out.refused["pos_embed"] = (
            f"is for a grid of {_by(new) if new else 'unknown shape'}, and {target.whole} has only square "
            "ones: name one with --grid"
        )
        return
    length = taken[_POS_EMBED].shape[1] - cls_rows
    for name in [name for name in taken if name.endswith("pos_embed")]:
        before = after = taken[name].shape[1] - length
        if name == _POS_EMBED:
            # A timm ViT without a cls token has no row for it either (class_token=False).
            after = int(_CLS_TOKEN in taken) if target.name == "timm" else 1
        changes = []
        if new != old:
            changes.append(f"{_by(old)} -> {_by(new)} patches, bicubic")
        if before != after:
            changes.append("a cls row of zeros added" if after else "its cls row left out")
        if changes:
            any_grid = (1, 1)  # for a table of unknown shape whose patches remain unchanged
            taken[name] = resample_table(
                taken[name], (old or any_grid, before), (new or any_grid, after)
            )
            out.resized[name] = ", ".join(changes)


def _by(grid: Grid | None) -> str:
    return f"{grid[0]}x{grid[1]}" if grid else "?"


def _name(out: Conversion, taken: StateDict, transformers: int) -> None:
    """Rename tensors and list entries to the target's names."""
    hugging_face = TARGETS[out.target].hugging_face
    # Without a decoder it is a ViTMAEModel or Dinov2Model, whose names have no prefix.
    bare = not any(name.startswith(DECODER) for name in taken)

    def named(name: str) -> str:
        name = target_name(out.target, name, transformers)
        return name.removeprefix("vit.") if bare else name

    for name, tensor in taken.items():
        parts = {name: tensor}
        if hugging_face and ".attn.qkv." in name:
            roles = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            parts = {name.replace(".qkv.", f".{role}."): part for role, part in roles}
        for part, value in parts.items():
            out.tensors[named(part)] = value.detach().clone(memory_format=torch.contiguous_format)
            if name not in out.new:
                out.copied.append(named(part))
    out.new = {named(name): why for name, why in out.new.items()}
    out.resized = {named(name): why for name, why in out.resized.items()}
    if hugging_face:
        out.network += f", names of transformers {transformers}"
    if out.grid:
        out.network += f", grid {_by(out.grid)}"


def _halve(out: Conversion) -> None:
    """Round all floats to float16; refuse tensors that it cannot represent."""
    out.rounded = 0.0
    for name, tensor in out.tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            rounded = out.tensors[name] = tensor.half()
            off = float((rounded.double() - tensor.double()).abs().max())
            if not is_finite(rounded):
                out.refused[name] = "has numbers that half precision cannot hold (above 65504)"
            out.rounded = max(out.rounded, off)


def _transformers_version() -> int:
    try:
        return 5 if int(importlib.metadata.version("transformers").split(".")[0]) >= 5 else 4
    except importlib.metadata.PackageNotFoundError:
        return 4


def _grouped(names: Mapping[str, str]) -> list[str]:
    """Lines grouped by reason; weight and bias of the same layer in all blocks share an entry."""
    reasons: dict[str, Counter[str]] = {}
    for name, why in names.items():
        layer = re.sub(r"\.(weight|bias)$", "", re.sub(r"\.\d+\.", ".N.", name))
        reasons.setdefault(why, Counter())[layer] += 1
    lines = []
    for why, layers in reasons.items():
        shown = [f"{layer} ({n})" if n > 1 else layer for layer, n in layers.items()]
        if not why:
            lines += [f"  {layer}" for layer in shown]
        elif len(shown) == 1:
            lines.append(f"  {shown[0]}: {why}")
        else:
            lines += [f"  {why}:", *(f"    {layer}" for layer in shown)]
    return lines
