"""The MAE decoder, and the mask-token transformer it shares with the region branch's neck.

Letters: B images, L patches, V visible patches, N hidden patches, D width.
"""

import torch
from torch import Tensor, nn

from .patches import sincos_position_embedding
from .pixel_encoder import LayerNorm, init_linear, make_blocks, run_blocks


class MaskTokenTransformer(nn.Module):
    """Fills hidden patches with a learned mask token and lets all patches attend to each other.

    MAE's decoder without its prediction layer, and R-MAE's neck (section 3.2: "a neck maps the pixel
    encoder's output to the region branch").
    """

    def __init__(
        self,
        in_dim: int,
        grid: tuple[int, int],
        dim: int,
        depth: int,
        num_heads: int,
        use_act_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.use_act_checkpoint = use_act_checkpoint
        self.grid = grid
        self.embed = nn.Linear(in_dim, dim)
        init_linear(self.embed)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim).normal_(std=0.02))
        self.pos_embed = nn.Parameter(sincos_position_embedding(dim, grid), requires_grad=False)
        self.blocks = make_blocks(dim, depth, num_heads)
        self.norm = LayerNorm(dim)

    def forward(
        self, tokens_BVD: Tensor, ids_visible_BV: Tensor, context_BTD: Tensor | None = None
    ) -> Tensor:
        """Maps visible tokens to all tokens, before the final norm.

        Args:
            tokens_BVD: (B, 1 + V, in_dim), cls token first.
            ids_visible_BV: patch indices of the visible tokens.
            context_BTD: additional tokens without a position, (B, T, dim), that all tokens may attend to.

        Returns:
            (B, 1 + L + T, dim): cls token, patches in raster order, context.
        """
        x = self.embed(tokens_BVD)
        B, _, D = x.shape
        L = self.grid[0] * self.grid[1]
        # scatter rather than gather through the inverse permutation: its backward is deterministic on a GPU.
        patches = self.mask_token.to(x.dtype).expand(B, L, D)
        patches = patches.scatter(1, ids_visible_BV.unsqueeze(-1).expand(-1, -1, D), x[:, 1:])
        x = torch.cat([x[:, :1], patches], dim=1) + self.pos_embed
        if context_BTD is not None:
            x = torch.cat([x, context_BTD.to(x.dtype)], dim=1)
        return run_blocks(self.blocks, x, self.use_act_checkpoint)


class PixelDecoder(MaskTokenTransformer):
    """MAE's decoder: predicts the pixels of hidden patches.

    ``in_dim`` is the width of the pixel encoder; ``use_act_checkpoint``: see `run_blocks`.
    """

    def __init__(
        self,
        in_dim: int,
        grid: tuple[int, int],
        patch_size: int = 16,
        in_chans: int = 3,
        dim: int = 512,
        depth: int = 8,
        num_heads: int = 16,
        use_act_checkpoint: bool = False,
    ) -> None:
        super().__init__(in_dim, grid, dim, depth, num_heads, use_act_checkpoint)
        self.pred = nn.Linear(dim, patch_size * patch_size * in_chans)
        init_linear(self.pred)

    def decode(
        self,
        tokens_BVD: Tensor,
        ids_visible_BV: Tensor,
        ids_hidden_BN: Tensor,
        context_BTD: Tensor | None = None,
    ) -> Tensor:
        """Predicts the pixels of the hidden patches, (B, N, P*P*C), in the order of ``ids_hidden_BN``."""
        x = self(tokens_BVD, ids_visible_BV, context_BTD)[:, 1:]
        hidden_BND = ids_hidden_BN[:, :, None].expand(-1, -1, x.shape[2])
        return self.pred(self.norm(x.gather(1, hidden_BND)))
