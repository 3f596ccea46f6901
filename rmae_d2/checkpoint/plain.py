"""Convert almost-plain ViTs to plain ones, and detect the parts that make this impossible.

    LayerScale               folded into the linear layer before it: the same features
    no row for the cls token in the position embeddings, no bias: zeros instead, the same features
    register tokens, a distillation token: left out with a warning, because the features change

All names here are ours, without ``backbone.net.``.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError
from .positions import sincos_grid, square_grid

#: Why a tensor is not part of the plain ViT, if the features are the same without it.
FOLDED = "LayerScale, folded into the linear layer before it: the features stay the same"
#: And if they are not.
TOKENS_LEFT_OUT = (
    "tokens beside the patches that this ViT has no place for: the patches were trained to attend to them, "
    "so features differ from the original's until the model is trained further"
)

_SCALE = re.compile(r"(blocks\.\d+\.)(?:ls([12])\.gamma|gamma_([12]))$")
_SCALED = {"1": "attn.proj", "2": "mlp.fc2"}
_REGISTERS = ("register_tokens", "reg_token", "storage_tokens")
_DISTILLATION = ("dist_token", "distillation_token")

# By names, ours and other projects', the parts that features depend on and this ViT lacks.
_FOREIGN = (
    (
        re.compile(r"(^|\.)rope\w*\.|\.inv_freq$|\.periods$"),
        "rotary position embeddings (RoPE), as DINOv3 and EVA-02",
    ),
    (
        re.compile(r"\.mlp\.(w12|w1|fc1_g|weights_in|gate_proj)\."),
        "gated MLPs (SwiGLU), as EVA-02 and the giant DINOv2",
    ),
    (
        re.compile(r"(^|\.)(norm_pre|ln_pre|pre_layrnorm|pre_norm)\."),
        "a layer norm before its first block, as CLIP",
    ),
    (re.compile(r"\.attn\.[qk]_norm\."), "normalised queries and keys (QK norm)"),
    (re.compile(r"relative_position_bias_table$"), "tables of relative position biases, as BEiT"),
)
_NO_TABLE = (
    "no table of position embeddings: rotary ones (RoPE), as DINOv3, or relative ones, as BEiT"
)
_TOWER = "the names of Hugging Face's CLIP or SigLIP; timm's copy of SigLIP is read"
# Without a position table, these distinguish a ViT of another kind from an incomplete plain one.
_OF_LATER_VITS = re.compile(
    r"(^|\.)(gamma_1|reg(ister)?_tokens?|storage_tokens|embeddings\.cls_token)$"
)
_REMEDY = (
    "Take an encoder without: of MAE, DINO, DINOv2 (S, B, L), DeiT, DeiT-III, I-JEPA, MoCo v3 or SigLIP; "
    "docs/weights.md has them all"
)


def foreign_part(names: Iterable[str]) -> str | None:
    """What a file's names show that this ViT lacks, as the end of "its ViT has"; None for nothing."""
    names = list(names)
    for pattern, what in _FOREIGN:
        if any(pattern.search(name) for name in names):
            return what
    if any(name.endswith("embeddings.patch_embedding.weight") for name in names):
        return _TOWER
    has_table = any(name.endswith(("pos_embed", "position_embeddings")) for name in names)
    if not has_table and any(_OF_LATER_VITS.search(name) for name in names):
        return _NO_TABLE
    return None


def refusal(source: str, part: str) -> CheckpointError:
    """The error for a ViT with a foreign part."""
    return CheckpointError(
        f"{source}: its ViT has {part}: not a plain ViT, so it can't be used. {_REMEDY}"
    )


def make_plain(
    encoder: Mapping[str, Tensor], source: str, of_timm: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a plain ViT with the same features, as far as possible.

    Args:
        encoder: tensors by our names, without ``backbone.net.``.
        source: their origin, for messages.
        of_timm: whether the cls token's row and the biases of queries, keys and values may be absent by
            design; in files of other projects, they count as missing.

    Returns:
        the tensors (rescaled ones are float32), and, by name, why others are left out.

    Raises:
        CheckpointError: the ViT has parts that a plain one lacks.
    """
    part = foreign_part(encoder) or _gated(encoder)
    if part is not None:
        raise refusal(source, part)
    out = {name: tensor for name, tensor in encoder.items() if not _SCALE.match(name)}
    left_out = dict.fromkeys(encoder.keys() - out.keys(), FOLDED)
    for name in left_out:
        _fold(out, name, encoder[name], source)
    extra = [name for name in (*_REGISTERS, *_DISTILLATION) if name in out]
    for name in extra:
        del out[name]
        left_out[name] = TOKENS_LEFT_OUT
    _fit_rows(out, any(name in _DISTILLATION for name in extra), of_timm)
    if of_timm:
        _add_biases(out)
    return out, left_out


def _gated(encoder: Mapping[str, Tensor]) -> str | None:
    """Detect a gated MLP: timm stores both halves in one tensor with an ordinary name."""
    up, down = (encoder.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    if up is None or down is None or up.dim() != 2 or down.dim() != 2:
        return None
    return _FOREIGN[1][1] if len(up) == 2 * down.shape[1] else None


def _fold(out: dict[str, Tensor], name: str, gamma: Tensor, source: str) -> None:
    """Scale the output of the layer that a LayerScale follows."""
    block, *which = _SCALE.match(name).groups()  # type: ignore[union-attr]
    layer = block + _SCALED[next(filter(None, which))]
    weight = out.get(f"{layer}.weight")
    if weight is None or gamma.shape != weight.shape[:1]:
        found = "is missing" if weight is None else f"is {tuple(weight.shape)}"
        raise CheckpointError(
            f"{source}: {name} of shape {tuple(gamma.shape)} scales {layer}, whose weight {found}: incomplete"
        )
    for leaf in ("weight", "bias"):
        tensor = out.get(f"{layer}.{leaf}")
        if tensor is not None:
            factors = gamma.float().view(-1, *[1] * (tensor.dim() - 1))
            out[f"{layer}.{leaf}"] = factors * tensor.float()


def _fit_rows(out: dict[str, Tensor], distillation: bool, of_timm: bool) -> None:
    """Leave one position-embedding row for the cls token and none for a distillation token after it."""
    table = out.get("pos_embed")
    if table is None or table.dim() != 3 or "cls_token" not in out:
        return
    if distillation:
        out["pos_embed"] = torch.cat([table[:, :1], table[:, 2:]], dim=1)
    elif of_timm and square_grid(table, (0,)) and not sincos_grid(table, (1,)):  # e.g. DeiT-III
        out["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)


def _add_biases(out: dict[str, Tensor]) -> None:
    """Add zero biases for queries, keys and values if no block has any."""
    weights = [name for name in out if re.fullmatch(r"blocks\.\d+\.attn\.qkv\.weight", name)]
    biases = [name.replace(".weight", ".bias") for name in weights]
    if not any(bias in out for bias in biases):
        for weight, bias in zip(weights, biases, strict=True):
            out[bias] = out[weight].new_zeros(len(out[weight]))
