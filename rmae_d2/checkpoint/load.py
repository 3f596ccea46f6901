"""Load weights into a model and report exactly what happened to every tensor."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from timm.layers import resample_patch_embed
from torch import Tensor, nn

from ..errors import CheckpointError
from ..modeling import ViT
from .formats import load_weights
from .names import DECODER, ENCODER, REGIONS
from .positions import Grid, grid_of_table, resample_table, sincos_grid, square_grid

logger = logging.getLogger(__name__)

# What ViTDet adds to a pre-trained encoder (section 3).
_NEW_IN_TRANSFER = re.compile(r"\.rel_pos_[hw]$")
_CLS_TOKEN = f"{ENCODER}cls_token"
_POS_EMBED = f"{ENCODER}pos_embed"
_PATCH_EMBED = f"{ENCODER}patch_embed.proj.weight"
# Tensors that differ between a classifier and its encoder, or between two ways of pooling.
_CLASSIFIER = re.compile(r"(head|fc_norm|backbone\.net\.norm)\.")


@dataclass
class LoadReport:
    """What became of the tensors, by their names in the model (``unused``: in the file).

    ``resampled`` says how position embeddings were adapted to another grid, and the patch embedding to
    another patch size or number of channels.
    """

    source: str
    kind: str
    copied: list[str] = field(default_factory=list)
    resampled: dict[str, str] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        encoder = sum(k.startswith(ENCODER) for k in self.copied)
        lines = [
            f"loaded {self.source} (recognised as {self.kind}):",
            f"  copied: {len(self.copied)} tensors, {encoder} of them of the pixel encoder",
        ]
        lines += [f"  resampled: {name}: {what}" for name, what in self.resampled.items()]
        for title, names in (
            ("new by design, initialised at random", self.new),
            ("in the file, not used by this model", self.unused),
            ("REFUSED", self.refused),
        ):
            if names:
                lines.append(f"  {title}: {len(names)} ({_summary(names)})")
        return "\n".join(lines)


def load_pretrained(
    model: nn.Module, weights: str | Mapping[str, Any], require_all: bool = False
) -> LoadReport:
    """Load an encoder or a whole model by exact names, and log a report.

    A classifier about to be trained keeps the file's head only if it has the same number of classes and the
    same norm before it; otherwise its head is new.

    Args:
        model: an ``RMAE``, or any Detectron2 model whose ViT is ``backbone.net``.
        weights: anything that `load_weights` accepts.
        require_all: require every tensor of the model to come from the file, as for evaluation.

    Returns:
        the report, whose ``refused`` is empty.

    Raises:
        CheckpointError: an encoder tensor of the model is missing from the file or has another shape, or
            the file's encoder has tensors that the model's lacks. The model is left unchanged.

    A position embedding for another grid is resampled with bicubic interpolation. A patch embedding for
    another patch size is resampled so that an enlarged image gets the response of the original image
    (FlexiViT, section 3.4); for another number of channels it is repeated or summed over them.
    """
    kind, state_dict = load_weights(weights)
    source = weights if isinstance(weights, str) else "state dict"
    report = LoadReport(source, kind)
    own = model.state_dict()
    if not require_all:
        report.unused += _foreign_head(own, state_dict)
    other_patches = not require_all and _of_other_patches(own, state_dict)
    update: dict[str, Tensor] = {}
    for key, tensor in own.items():
        if key not in state_dict or key in report.unused:
            essential = key.startswith(ENCODER) and not _NEW_IN_TRANSFER.search(key)
            if essential or require_all:
                report.refused.append(f"{key}: not in the file")
            else:
                report.new.append(key)
        elif state_dict[key].shape == tensor.shape and not _on_other_grid(
            key, state_dict[key], model
        ):
            update[key] = state_dict[key]
            report.copied.append(key)
        elif key.endswith("pos_embed") and _is_table_for(tensor, state_dict[key]):
            with_token = key == _POS_EMBED and _CLS_TOKEN in state_dict
            theirs = grid_of_table(state_dict[key], (1,) if with_token else (1, 0))
            update[key], report.resampled[key] = _fit_table(state_dict[key], theirs, tensor, model)
        elif key == _PATCH_EMBED and other_patches:
            update[key], report.resampled[key] = _fit_patch_embed(state_dict[key], tensor.shape)
        elif other_patches and key.startswith((DECODER, REGIONS)):
            report.new.append(key)  # these predict or embed patches, too
            report.unused.append(key)
        else:
            report.refused.append(
                f"{key}: {tuple(state_dict[key].shape)} in the file, {tuple(tensor.shape)} in the model"
            )
    for key in state_dict:
        if key in own:
            continue
        if _changes_encoder(key) or (require_all and key == _CLS_TOKEN):
            report.refused.append(f"{key}: the model has no such part")
        else:
            report.unused.append(key)
    if report.refused:
        few = report.refused[:8] + ["..."] * (len(report.refused) > 8)
        raise CheckpointError(
            f"{report}\n{source} does not fit this model: nothing was loaded. Refused:\n  "
            + "\n  ".join(few)
            + f"\n{_remedy(model, state_dict, report.refused, require_all)}"
        )
    try:
        model.load_state_dict(update, strict=False)
    except RuntimeError as error:  # some parts of the model check more than shapes
        raise CheckpointError(f"{source} does not fit this model: {error}") from error
    logger.info(str(report))
    return report


def _foreign_head(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """The file's classification head, if it is for other classes or expects another norm before it."""
    if not _classifier_keys(own):
        return []
    names = [name for name in weights if name.startswith("head.") and name in own]
    fits = all(weights[name].shape == own[name].shape for name in names)
    fits &= ("fc_norm.weight" in own) == ("fc_norm.weight" in weights)
    return [] if fits else names


def _remedy(
    model: nn.Module, weights: Mapping[str, Tensor], refused: list[str], require_all: bool
) -> str:
    """What to do about a file that does not fit the model."""
    wanted, given = _classifier_keys(model.state_dict()), _classifier_keys(weights)
    if wanted and given != wanted and all(_CLASSIFIER.match(line) for line in refused):
        if given:
            return f"The file's classifier is one of {given}"
        if require_all:
            return "The file holds no classifier: train one from it first, without --eval-only"
    names = [line.partition(":")[0] for line in refused]
    if names == [_CLS_TOKEN] and _CLS_TOKEN not in weights:
        remedy = "rmae-d2 convert --input FILE --to rmae --fill --output NEW.pth makes one up"
        if isinstance(model.get_submodule("backbone.net"), ViT):
            remedy = "model.backbone.net.keep_cls_token=false"
        return f"The file's ViT was trained without a cls token: {remedy}"
    if names == [_CLS_TOKEN] and isinstance(model.get_submodule("backbone.net"), ViT):
        return "The file's ViT was trained with a cls token: model.backbone.net.keep_cls_token=true"
    return "Use the file's own model size (model.backbone.net.{embed_dim,depth,patch_size}), or another file."


def _classifier_keys(weights: Mapping[str, Tensor]) -> str:
    """The variant of a `Classifier`, as config keys; "" for none."""
    for mode, name in (("linear", "head.1.weight"), ("finetune", "head.weight")):
        if name in weights:
            pool = "mean" if "fc_norm.weight" in weights else "cls"
            # A probe's pooling leaves no trace in its weights.
            keys = f"model.mode={mode}" + (f" model.pool={pool}" if mode == "finetune" else "")
            return f"{keys} model.num_classes={len(weights[name])}"
    return ""


def _changes_encoder(key: str) -> bool:
    """Whether leaving this tensor out would silently change the encoder's features.

    This excludes the cls token, final norm and fusion of stages that detectors drop, and ViTDet's relative
    positions in pre-training.
    """
    inner = key.removeprefix(ENCODER)
    if (
        inner == key
        or inner in ("cls_token", "norm.weight", "norm.bias")
        or inner.startswith("fuse.")
    ):
        return False
    return not _NEW_IN_TRANSFER.search(key)


def _on_other_grid(key: str, source: Tensor, model: nn.Module) -> bool:
    """Whether a position embedding of the right length is for another grid: 2x8 and 4x4 have equal length."""
    known = sincos_grid(source) if key.endswith("pos_embed") else None
    return known is not None and known != _grid_of_model(source, model)


def _is_table_for(own: Tensor, source: Tensor) -> bool:
    """Whether a position embedding fits the model's except for its grid."""
    return source.dim() == 3 and len(source) == 1 and source.shape[2] == own.shape[2]


def _fit_table(
    table: Tensor, theirs: tuple[Grid, int], own: Tensor, model: nn.Module
) -> tuple[Tensor, str]:
    """Fit a position embedding to the model's grid and cls rows; also return what was done to it."""
    ours = _grid_of_model(own, model)
    (old, old_rows), (new, new_rows) = theirs, ours
    antialias = not _enlarged_in_transfer(old, new, model)
    done = []
    if old != new:
        done.append(f"{old[0]}x{old[1]} -> {new[0]}x{new[1]} patches, bicubic")
    if old_rows != new_rows:
        done.append(
            "a row of zeros for the cls token" if new_rows else "without its cls token's row"
        )
    return resample_table(table, theirs, ours, antialias), ", ".join(done)


def _of_other_patches(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> bool:
    """Whether only patch size or number of channels distinguishes the patch embedding from the model's."""
    ours, theirs = (tensors.get(_PATCH_EMBED) for tensors in (own, weights))
    if ours is None or theirs is None or theirs.dim() != 4:
        return False
    return len(ours) == len(theirs) and ours.shape != theirs.shape


def _fit_patch_embed(kernel: Tensor, shape: Sequence[int]) -> tuple[Tensor, str]:
    """Fit a patch embedding to the model's patches, (D, C, P, P); also return what was done to it."""
    _, channels, *size = shape
    done = []
    kernel = kernel.float()
    if list(kernel.shape[2:]) != size:
        done.append(f"{kernel.shape[2]} -> {size[0]} pixels per side, by FlexiViT's pseudo-inverse")
        kernel = resample_patch_embed(kernel, size)
    given = kernel.shape[1]
    if given != channels:
        how = "summed" if channels == 1 else "repeated" if channels > given else "the first"
        done.append(f"{given} -> {channels} channels, {how}")
        kernel = _with_channels(kernel, channels)
    return kernel, ", ".join(done)


def _with_channels(kernel: Tensor, channels: int) -> Tensor:
    """Repeat channels cyclically, scaled to keep the size of responses, as timm does; one gets their sum."""
    if channels == 1:
        return kernel.sum(1, keepdim=True)
    given = kernel.shape[1]
    return kernel.repeat(1, -(-channels // given), 1, 1)[:, :channels] * (given / channels)


def _grid_of_model(table: Tensor, model: nn.Module) -> tuple[Grid, int]:
    """Grid and cls rows of a model's own position embedding; Detectron2's ViT is always square."""
    grid = getattr(model.get_submodule("backbone.net"), "grid", None)
    if grid is not None:
        return grid, table.shape[1] - grid[0] * grid[1]
    square = square_grid(table)
    if square is None:
        raise CheckpointError(
            f"the model's position embedding of {table.shape[1]} rows is not square"
        )
    return square


def _enlarged_in_transfer(old: Grid, new: Grid, model: nn.Module) -> bool:
    """Whether a table is enlarged for the transfer backbone.

    It is then resized without antialiasing, as that backbone itself and mmsegmentation's recipe do.
    """
    return (
        isinstance(model.get_submodule("backbone.net"), ViT)
        and old[0] <= new[0]
        and old[1] <= new[1]
    )


def _summary(names: list[str]) -> str:
    """Names grouped by their first components, with counts."""
    groups: dict[str, int] = {}
    for name in names:
        name = name.partition(":")[0]
        stem = ".".join(name.split(".")[: 3 if name.startswith(ENCODER) else 2])
        if _NEW_IN_TRANSFER.search(name):
            stem = "rel_pos"
        groups[stem] = groups.get(stem, 0) + 1
    shown = [f"{stem}: {count}" for stem, count in list(groups.items())[:12]]
    return ", ".join(shown) + (", ..." if len(groups) > 12 else "")
