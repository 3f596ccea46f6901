"""ViTDet-L and H where they differ from B (ViTDet, appendix A.2): model.backbone.net.update(large)."""

from rmae_d2.modeling import vit_kwargs

large = dict(
    **vit_kwargs("large"),
    drop_path_rate=0.4,
    # Global attention in blocks 5, 11, 17 and 23.
    window_block_indexes=[i for i in range(24) if i % 6 != 5],
)

huge = dict(
    **vit_kwargs("huge"),
    drop_path_rate=0.5,
    # Global attention in blocks 7, 15, 23 and 31.
    window_block_indexes=[i for i in range(32) if i % 8 != 7],
)
