"""What each project calls the tensors that we have too: tables of name prefixes, used in both directions.

We call the pixel encoder ``backbone.net.*``, the MAE decoder ``pixel_decoder.*``, R-MAE's branch
``region_branch.*``, a classifier's head ``head.*`` and its norm after mean pooling ``fc_norm.*``.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

ENCODER = "backbone.net."
DECODER = "pixel_decoder."
REGIONS = "region_branch."
REGIONS_TO_PIXELS = "region_to_pixel."
MASKING = "masking."

#: Our prefix of a name, then theirs; the first match wins. For Hugging Face, the first is that of the hub and
#: of transformers up to 4, the second that of 5 if it differs; further ones are only read.
Table = tuple[tuple[str, ...], ...]

_MAE: Table = ((f"{DECODER}mask_token", "mask_token"), (DECODER, "decoder_"), (ENCODER, ""))
_REFERENCE: Table = (
    (f"{REGIONS}neck.norm.", "region_dec_norm."),
    (f"{REGIONS}neck.", "region_cross_"),
    (f"{REGIONS}encoder.blocks.", "region_enc_blocks."),
    (f"{REGIONS}query.", "region_proj."),
    (f"{REGIONS}decoder.", "region_dec_blocks."),
    (f"{REGIONS}pred.", "region_pred."),
    (f"{REGIONS}encoder.", "region_"),
    *_MAE,
)
_HF: Table = (
    (f"{ENCODER}cls_token", "vit.embeddings.cls_token"),
    (f"{ENCODER}pos_embed", "vit.embeddings.position_embeddings"),
    (f"{ENCODER}patch_embed.proj.", "vit.embeddings.patch_embeddings.projection."),
    (f"{ENCODER}norm.", "vit.layernorm."),
    (f"{ENCODER}blocks.", "vit.encoder.layer.", "vit.layers."),
    (f"{DECODER}mask_token", "decoder.mask_token"),
    (f"{DECODER}blocks.", "decoder.decoder_layers."),
    # transformers 5 loads the former and saves the latter.
    (f"{DECODER}blocks.", "decoder.decoder_encoder.layer."),
    (DECODER, "decoder.decoder_"),
    ("head.", "classifier."),
)
_HF_BLOCK: Table = (
    ("norm1.", "layernorm_before."),
    ("norm2.", "layernorm_after."),
    ("ls1.gamma", "layer_scale1.lambda1"),
    ("ls2.gamma", "layer_scale2.lambda1"),
    *(
        (f"attn.{x}.", f"attention.attention.{x}.", f"attention.{x[0]}_proj.", f"attention.{x}.")
        for x in ("query", "key", "value")
    ),
    ("attn.proj.", "attention.output.dense.", "attention.o_proj."),
    ("mlp.fc1.", "intermediate.dense.", "mlp.fc1."),
    ("mlp.fc2.", "output.dense.", "mlp.fc2."),
)
#: Where Hugging Face's Dinov2 differs from its ViT.
_DINOV2: Table = (
    (f"{ENCODER}mask_token", "vit.embeddings.mask_token"),
    (f"{ENCODER}blocks.", "vit.encoder.layer."),
    *_HF,
)
_DINOV2_BLOCK: Table = (("norm", "norm"), ("mlp.", "mlp."), *_HF_BLOCK)
#: MMPretrain's, then MMSegmentation's if they differ: its attention is torch's.
_MM: Table = (
    (f"{ENCODER}patch_embed.proj.", "patch_embed.projection."),
    (f"{ENCODER}norm.", "ln1."),
    (f"{ENCODER}norm_pre.", "pre_norm."),
    (f"{ENCODER}blocks.", "layers."),
    (ENCODER, ""),
)
_MM_BLOCK: Table = (
    ("norm1.", "ln1."),
    ("norm2.", "ln2."),
    ("attn.qkv.", "attn.qkv.", "attn.attn.in_proj_"),
    ("attn.proj.", "attn.proj.", "attn.attn.out_proj."),
    ("mlp.fc1.", "ffn.layers.0.0."),
    ("mlp.fc2.", "ffn.layers.1."),
    ("ls1.gamma", "attn.gamma1.weight"),
    ("ls2.gamma", "ffn.gamma2.weight"),
)
_BLOCK = re.compile(r"(.*\bblocks\.\d+\.)(.+)")
# Layers of any ViT under timm's names, including those that ours lacks.
_OF_VIT = re.compile(r"patch_embed\.|norm_pre\.|blocks\.|norm\.")
# A block's index within its group: DINOv2's training checkpoints have both.
_GROUP = re.compile(r"^blocks\.\d+\.(?=\d+\.)")
# SAM's convolutions after its ViT.
_SAM_NECK = re.compile(r"^neck\.\d+\.")
# MoCo v3's training checkpoints: the encoder that its authors transfer, without its projector.
_MOCO = re.compile(r"^base_encoder\.(?!head\.)")
# The last block of the reference's region decoder, our expansion block, identified by its unique layer.
_REFERENCE_EXPANSION = re.compile(r"^(region_dec_blocks\.\d+\.)proj\.weight$")
# What tokens get besides their positions; registers go by many names.
_HF_EMBEDDINGS = re.compile(r"^(vit\.)?embeddings\.")
# A layer that classifiers omit too, and what only masked training of such a ViT uses.
_HF_UNUSED = re.compile(r"^(vit\.)?(pooler\.|embeddings\.mask_token$)")


@dataclass(frozen=True)
class Target:
    """The format of a project's weights: its names, and the parts it accepts."""

    name: str  #: as on the command line
    whole: str  #: what its model is called, for messages
    cls_token: bool = True  #: and the final norm
    decoder: bool = False
    regions: bool = False
    square: bool = False  #: position embeddings of square grids only
    hugging_face: bool = False  #: q, k and v are three tensors, and names depend on the version


TARGETS = {
    target.name: target
    for target in (
        Target("detectron2", "Detectron2's ViT", cls_token=False, square=True),
        Target("mae", "MAE", decoder=True),
        Target("rmae", "RMAE", decoder=True, regions=True),
        Target("timm", "timm's VisionTransformer"),
        Target("huggingface", "Hugging Face's ViTMAE", decoder=True, hugging_face=True),
        Target("dinov2", "Hugging Face's Dinov2", square=True, hugging_face=True),
        Target("mmpretrain", "MMPretrain's VisionTransformer"),
        Target("mmsegmentation", "MMSegmentation's VisionTransformer"),
    )
}
# Names of whole tensors and of those within a block; other targets use MAE's.
_WRITTEN = {
    "huggingface": (_HF, _HF_BLOCK),
    "dinov2": (_DINOV2, _DINOV2_BLOCK),
    "mmpretrain": (_MM, _MM_BLOCK),
    "mmsegmentation": (_MM, _MM_BLOCK),
}


def our_names(kind: str, keys: Iterable[str]) -> dict[str, str]:
    """Map the names of a file's tensors to ours.

    Hugging Face's q, k and v share one name. Left out are its pooler, the mask token of a ViT without a
    decoder, and everything of MoCo v3 but the base encoder. A name in no table belongs to the pixel encoder
    if it is one of its direct parameters, such as register tokens, whatever they are called; otherwise it is
    kept, as with timm's heads, which have our names, and SAM's neck.
    """
    keys = list(keys)
    if kind == "rmae_d2" or (kind == "detectron2" and any(k.startswith(ENCODER) for k in keys)):
        return {key: key for key in keys}
    if kind == "detectron2":
        names = {key: ENCODER + key.replace(".mlp.lin", ".mlp.fc") for key in keys}  # SAM's layers
        return {key: key if _SAM_NECK.match(key) else names[key] for key in keys}
    if kind == "hf_vitmae":
        return {key: _from_hugging_face(key) for key in keys if not _HF_UNUSED.match(key)}
    if kind == "moco_v3":
        return {key: _MOCO.sub(ENCODER, key) for key in keys if _MOCO.match(key)}
    if kind == "mmpretrain":
        return {key: _from_mm(key) for key in keys if key != "mask_token"}
    table = _REFERENCE if kind == "rmae_reference" else _MAE
    for match in filter(None, map(_REFERENCE_EXPANSION.match, keys)):
        expansion = f"{REGIONS}expansion."
        table = ((f"{expansion}norm2.", f"{match[1]}norm3."), (expansion, match[1]), *table)
    if kind == "timm":
        keys = [key for key in keys if key != "mask_token"]
    names = {key: _ours(_GROUP.sub("blocks.", key), table) for key in keys}
    return {
        key: key if name.startswith(ENCODER) and "." in key and not _OF_VIT.match(key) else name
        for key, name in names.items()
    }


def target_name(target: str, key: str, transformers: int = 4) -> str:
    """Map one of our names to a target's; ``transformers`` is the major version, 4 or 5.

    For Hugging Face, q, k and v are passed as ``attn.{query,key,value}``.
    """
    if target == "rmae":
        return key
    if target not in _WRITTEN:
        return _theirs(key, _MAE)
    second = transformers >= 5 if TARGETS[target].hugging_face else target == "mmsegmentation"
    column = 2 if second else 1
    whole, within = _WRITTEN[target]
    block = _BLOCK.match(key)
    if block is None:
        return _theirs(key, whole, column)
    return _theirs(block[1], whole, column) + _theirs(block[2], within, column)


def _ours(name: str, table: Table) -> str:
    for ours, *theirs in table:
        for beginning in theirs:
            if name.startswith(beginning):
                return ours + name.removeprefix(beginning)
    return name


def _theirs(name: str, table: Table, column: int = 1) -> str:
    for row in table:
        if name.startswith(row[0]):
            return row[min(column, len(row) - 1)] + name.removeprefix(row[0])
    return name


def _from_mm(key: str) -> str:
    name = _ours(key, _MM)
    block = _BLOCK.match(name)
    if block is not None:
        return block[1] + _ours(block[2], _MM_BLOCK)
    # Besides the ViT there are heads, which keep their names.
    return key if "." in key and not _OF_VIT.match(name.removeprefix(ENCODER)) else name


def _from_hugging_face(key: str) -> str:
    name = _ours(key, _HF)
    if name == key:  # from a ViTMAEModel, whose names have no prefix
        name = _ours(f"vit.{key}", _HF).removeprefix("vit.")
    block = _BLOCK.match(name)
    if block is None:
        return _HF_EMBEDDINGS.sub(ENCODER, name)
    inner = re.sub(r"^attn\.(query|key|value)\.", "attn.qkv.", _ours(block[2], _HF_BLOCK))
    return block[1] + inner
