"""Hiera as the pixel encoder: a hierarchical ViT that sees only the visible mask units (Ryali et al. 2023).

The network is timm's (`timm.models.hiera`), with absolute and window position embeddings (Bolya et al. 2023,
"abswin"). A mask unit, 32 x 32 pixels, is what a patch is to a plain ViT: `RMAE` hides and predicts units.

Letters: B images, L units, V visible units, D width of the last stage, H W pixels.
"""

from collections.abc import Sequence

import torch
from timm.layers import to_2tuple
from timm.models.hiera import Hiera
from torch import Tensor, nn

from ..errors import UserError
from .patches import grid_of, unpatchify
from .pixel_encoder import LayerNorm

#: Side of a mask unit in pixels, and in tokens of each of the four stages.
MASK_UNIT = 32
_TOKENS = (8, 4, 2, 1)


class HieraStages(nn.Module):
    """timm's Hiera with four stages, of strides 4, 8, 16 and 32 pixels, as ``hiera``.

    Args:
        img_size: side or (H, W) in pixels, multiples of 32.
        patch_size: of a mask unit; always 32.
        embed_dim: D; the first stage has an eighth of it. 768 for Hiera-T, S and B.
        stages: blocks of each stage: (1, 2, 7, 2) for T, (1, 2, 11, 2) for S, (2, 3, 16, 3) for B.
        drop_path_rate: stochastic depth rate of the last block, increasing linearly from 0.
        use_act_checkpoint: recompute activations in the backward pass.

    Raises:
        UserError: sizes that do not fit together.
    """

    #: For `RMAE`: its windows are inside of what is hidden.
    window_size = 0

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = MASK_UNIT,
        in_chans: int = 3,
        embed_dim: int = 768,
        stages: Sequence[int] = (2, 3, 16, 3),
        drop_path_rate: float = 0.0,
        use_act_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if patch_size != MASK_UNIT:
            raise UserError(
                f"patch_size={patch_size}: Hiera's mask units are of {MASK_UNIT} pixels"
            )
        if embed_dim % 8 or len(stages) != len(_TOKENS) or min(stages) < 1:
            raise UserError(
                f"embed_dim={embed_dim}, stages={list(stages)}: a multiple of 8, and blocks of four stages"
            )
        self.img_size, self.patch_size = to_2tuple(img_size), patch_size
        self.in_chans, self.embed_dim = in_chans, embed_dim
        self.grid = grid_of(img_size, patch_size)
        self.hiera = Hiera(
            img_size=self.img_size,
            in_chans=in_chans,
            embed_dim=embed_dim // 8,
            stages=tuple(stages),
            num_classes=0,
            abs_win_pos_embed=True,
            drop_path_rate=drop_path_rate,
        )
        self.hiera.head = nn.Identity()  # of classification
        self.hiera.grad_checkpointing = use_act_checkpoint
        self.widths = [embed_dim >> (3 - i) for i in range(4)]

    @property
    def num_patches(self) -> int:
        """L."""
        return self.grid[0] * self.grid[1]

    def stages(self, images_BCHW: Tensor, visible_BL: Tensor | None = None) -> list[Tensor]:
        """Computes the outputs of the four stages.

        Args:
            images_BCHW: normalised, of the network's size.
            visible_BL: which units are visible, bool, equally many in each image; None for all.

        Returns:
            maps (B, width, H / stride, W / stride); of visible units only (B, V, side, side, width) each, in
            raster order, with 8, 4, 2 and 1 tokens per side.
        """
        _, found = self.hiera.forward_features(images_BCHW, visible_BL, return_intermediates=True)
        return [x.permute(0, 3, 1, 2) for x in found] if visible_BL is None else list(found)


class MaskedHiera(HieraStages):
    """Hiera over the visible units, with its stages fused to one vector per unit, as in its MAE pre-training.

    Each stage's tokens of a unit go through a convolution of the unit's size; their sum is normalised
    (Hiera, appendix: "multi-scale decoder"). Hiera has no cls token: the mean of the units stands for it.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = MASK_UNIT,
        in_chans: int = 3,
        embed_dim: int = 768,
        stages: Sequence[int] = (2, 3, 16, 3),
        drop_path_rate: float = 0.0,
        use_act_checkpoint: bool = False,
    ) -> None:
        super().__init__(
            img_size, patch_size, in_chans, embed_dim, stages, drop_path_rate, use_act_checkpoint
        )
        self.fuse = nn.ModuleList(
            nn.Conv2d(width, self.embed_dim, side, bias=False)
            for width, side in zip(self.widths, _TOKENS, strict=True)
        )
        self.norm = LayerNorm(self.embed_dim)

    def forward(
        self,
        patches_BLX: Tensor,
        ids_visible_BV: Tensor | None = None,
        gates_BV: Tensor | None = None,
    ) -> Tensor:
        """Encodes the visible units; arguments and result as of `MaskedViT.forward`.

        Raises:
            UserError: with gates, which learned masking needs.
        """
        if gates_BV is not None:
            raise UserError("learned masking (AutoMAE) needs a plain ViT: set model.masking=null")
        B, L, _ = patches_BLX.shape
        if ids_visible_BV is None:
            ids_visible_BV = torch.arange(L, device=patches_BLX.device).expand(B, L)
        visible = torch.zeros(B, L, dtype=torch.bool, device=patches_BLX.device)
        visible = visible.scatter(1, ids_visible_BV, True)
        images = unpatchify(patches_BLX, self.grid, self.patch_size)
        maps = [x.flatten(0, 1).permute(0, 3, 1, 2) for x in self.stages(images, visible)]
        fused = [conv(x).flatten(1) for conv, x in zip(self.fuse, maps, strict=True)]
        tokens = self.norm(torch.stack(fused).sum(dim=0).unflatten(0, (B, -1)))
        place = ids_visible_BV.argsort(dim=1).argsort(dim=1)  # in raster order, to the given one
        tokens = tokens.gather(1, place[:, :, None].expand(tokens.shape))
        return torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
