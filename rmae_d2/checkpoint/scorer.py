"""Weights for masking policies: the frozen ViT whose attention they use, and a trained generator."""

from torch import nn

from ..errors import CheckpointError
from ..modeling.masking.generator import FrozenViT, MaskGenerator, has_values
from ..modeling.pixel_encoder import MaskedViT, PixelEncoder
from .formats import check_finite, read_weights
from .load import load_pretrained

_GENERATOR = ".generator."


def load_scorer(net: MaskedViT, weights: str, block: int = -1) -> FrozenViT:
    """Load a frozen ViT whose attention a masking policy uses.

    If a model is only built to be counted (meta device, fake tensors), no file is read.

    Args:
        net: has the size of the file's encoder; a position embedding for another grid is resized.
        weights: any file that `load_weights` reads: ours, MAE's, timm's, DINO's ViT.
        block: block whose attention is used; the last one in AutoMAE.
    """
    if has_values(net):
        if not weights:
            raise CheckpointError(
                "the masking policy's scorer has no weights: name a ViT's weight file in the config, for "
                "AutoMAE model.masking.generator.scorer.weights=FILE"
            )
        try:
            # The ViT under the name that it has in a model.
            load_pretrained(nn.ModuleDict({"backbone": PixelEncoder(net)}), weights)
        except CheckpointError as error:
            raise CheckpointError(
                f"the masking policy's frozen scorer: {error}\n(Its size is that of its own net in the "
                "config, for AutoMAE model.masking.generator.scorer.net, not of model.backbone.)"
            ) from error
    return FrozenViT(net, block)


def load_generator(generator: MaskGenerator, weights: str) -> MaskGenerator:
    """Load a generator from an earlier run, for the two-stage baseline; unchanged if it has no values.

    ``weights`` is a checkpoint of a run with `LearnedMasking`.
    """
    if not has_values(generator):
        return generator
    if not weights:
        raise CheckpointError(
            "the two-stage baseline needs a generator: name a finished AutoMAE run's model_final.pth, "
            "model.masking.generator.weights=FILE"
        )
    state_dict = read_weights(weights).tensors
    own = {
        key.rpartition(_GENERATOR)[2]: value
        for key, value in state_dict.items()
        if key.startswith("masking.") and _GENERATOR in key
    }
    if not own:
        raise CheckpointError(
            f"{weights}: holds no mask generator (masking.generator.*): it is not of an AutoMAE run"
        )
    check_finite(own, weights)
    try:
        generator.load_state_dict(own)
    except RuntimeError as error:
        raise CheckpointError(f"{weights}: its mask generator does not fit: {error}") from error
    return generator
