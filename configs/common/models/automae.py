"""AutoMAE's masking policy, for ``model.masking``, with the published constants; and the optimizer's groups.

Rectangle sizes are fractions of the grid: 40 to 160 of 196 patches, 4 to 10 of 14 columns.
"""

from detectron2.config import LazyCall as L

from rmae_d2.checkpoint import load_scorer
from rmae_d2.modeling import LearnedMasking, MaskDiscriminator, MaskedViT, MaskGenerator, part
from rmae_d2.solver import adversarial_params

masking = L(LearnedMasking)(
    generator=L(MaskGenerator)(
        scorer=L(load_scorer)(
            # Must match the weights.
            net=part(MaskedViT, embed_dim=768, depth=12, num_heads=12),
            # A ViT's weight file: ours, MAE's, timm's or DINO's.
            weights="",
            block=-1,
        ),
        hidden_dim=6,
        # Attention as a multiple of 1/L.
        relative_attention=False,
    ),
    discriminator=part(MaskDiscriminator, dims=(16, 32), bias=False),
    temperature=1.0,
    # Added to the noise of marked patches (beta), and their number; null for as many as stay visible.
    bonus=0.5,
    num_marked=None,
    # Weight of the adversarial loss (lambda).
    generator_weight=0.2,
    rectangle_area=(40 / 196, 160 / 196),
    rectangle_side=(4 / 14, 10 / 14),
    # Columns are drawn and rows follow from the area, as published; "either": chosen at random.
    rectangle_drawn="columns",
    # Bonus inside a rectangle (alpha).
    rectangle_bonus=0.5,
    # Share of the maximum entropy below which a warning says that the generator has collapsed.
    entropy_floor=0.25,
    # True if the mapper's regions are objects: reports how many of their patches are hidden.
    foreground=False,
)

params = L(adversarial_params)(
    weight_decay_norm=0.0,
    weight_decay_bias=0.0,
    # Adam with the same rate and schedule.
    discriminator=dict(lr_factor=1.0, betas=(0.9, 0.95), weight_decay=0.0),
)
