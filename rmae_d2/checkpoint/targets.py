"""What the projects we write for call their tensors, and which of ours they take."""

import re
from dataclasses import dataclass

from .formats import Rules, rename

ENCODER = "backbone.net."
DECODER = "pixel_decoder."
REGIONS = "region_branch."
REGIONS_TO_PIXELS = "region_to_pixel."
MASKING = "masking."

_MAE: Rules = [
    (r"^pixel_decoder\.mask_token$", "mask_token"),
    (r"^pixel_decoder\.", "decoder_"),
    (r"^backbone\.net\.", ""),
]
_HF: Rules = [
    (r"^backbone\.net\.cls_token$", "vit.embeddings.cls_token"),
    (r"^backbone\.net\.pos_embed$", "vit.embeddings.position_embeddings"),
    (r"^backbone\.net\.patch_embed\.proj\.", "vit.embeddings.patch_embeddings.projection."),
    (r"^backbone\.net\.norm\.", "vit.layernorm."),
    (r"^pixel_decoder\.mask_token$", "decoder.mask_token"),
    (r"^pixel_decoder\.blocks\.", "decoder.decoder_layers."),
    (r"^pixel_decoder\.", "decoder.decoder_"),
]
_HF_BLOCK: Rules = [(r"\.norm1\.", ".layernorm_before."), (r"\.norm2\.", ".layernorm_after.")]
# As on the hub and in transformers up to 4; from_pretrained of 5 reads them too.
_HF_4: Rules = [*_HF, (r"^backbone\.net\.blocks\.", "vit.encoder.layer.")]
_HF_4_BLOCK: Rules = [
    *_HF_BLOCK,
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
]
_HF_5: Rules = [*_HF, (r"^backbone\.net\.blocks\.", "vit.layers.")]
_HF_5_BLOCK: Rules = [
    *_HF_BLOCK,
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.(q|k|v)(?:uery|ey|alue)\.", r".attention.\1_proj."),
]


@dataclass(frozen=True)
class Target:
    """One project's form of the weights: what it is called, and which parts it takes."""

    name: str  #: as on the command line
    whole: str  #: what its model is called, for messages
    cls_token: bool = True  #: and the final norm
    decoder: bool = False
    regions: bool = False


TARGETS = {
    target.name: target
    for target in (
        Target("detectron2", "Detectron2's ViT", cls_token=False),
        Target("mae", "MAE", decoder=True),
        Target("rmae", "RMAE", decoder=True, regions=True),
        Target("timm", "timm's VisionTransformer"),
        Target("huggingface", "Hugging Face's ViTMAE", decoder=True),
    )
}


def target_name(target: str, key: str, transformers: int = 4) -> str:
    """What a tensor of ours is called in a target; ``transformers`` is the major version, 4 or 5.

    The q, k and v of Hugging Face come in as ``attn.{query,key,value}``.
    """
    if target == "rmae":
        return key
    if target != "huggingface":
        return rename(key, _MAE)
    rules, block_rules = (_HF_5, _HF_5_BLOCK) if transformers >= 5 else (_HF_4, _HF_4_BLOCK)
    key = rename(key, rules)
    for rule in block_rules if re.search(r"\.\d+\.", key) else ():
        key = rename(key, [rule])
    return key
