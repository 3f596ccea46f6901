"""The MAE decoder, and the mask-token transformer it shares with the region branch's neck.

Letters: B images, L patches, V visible patches, N hidden patches, T further tokens, D width.
"""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
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


class FirstKeysBlock(Block):
    """A transformer block in which all tokens attend to the first ones only; parameters as in `Block`."""

    def forward(self, x_BSD: Tensor, num_keys: int) -> Tensor:
        """(B, S, D) -> (B, S, D), with the first ``num_keys`` tokens as keys and values."""
        attn, D = self.attn, x_BSD.shape[2]
        normed = self.norm1(x_BSD)
        weight, bias = attn.qkv.weight, attn.qkv.bias
        q = F.linear(normed, weight[:D], bias[:D])
        k, v = F.linear(normed[:, :num_keys], weight[D:], bias[D:]).chunk(2, dim=2)
        q, k, v = (x.unflatten(2, (attn.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x_BSD = x_BSD + attn.proj(seen)
        return x_BSD + self.mlp(self.norm2(x_BSD))


class PixelDecoder(MaskTokenTransformer):
    """MAE's decoder: predicts the pixels of hidden patches.

    Args:
        in_dim: width of the pixel encoder.
        use_act_checkpoint: see `run_blocks`.
        hidden_attention: whether mask tokens are attended to, as in MAE. If not, every patch attends to the
            visible ones only, as in CrossMAE (Fu et al. 2024): the prediction of a patch then does not depend
            on which others are predicted, so a part of them may be left out (``decode_ratio`` of `RMAE`).
            Parameters are the same.
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
        hidden_attention: bool = True,
    ) -> None:
        super().__init__(in_dim, grid, dim, depth, num_heads, use_act_checkpoint)
        self.hidden_attention = hidden_attention
        if not hidden_attention:
            self.blocks = make_blocks(dim, depth, num_heads, kind=FirstKeysBlock)
        self.pred = nn.Linear(dim, patch_size * patch_size * in_chans)
        init_linear(self.pred)

    def decode(
        self,
        tokens_BVD: Tensor,
        ids_visible_BV: Tensor,
        ids_hidden_BN: Tensor,
        context_BTD: Tensor | None = None,
    ) -> Tensor:
        """Predicts the pixels of hidden patches, (B, N, P*P*C), in the order of ``ids_hidden_BN``.

        ``ids_hidden_BN`` may leave hidden patches out; with ``hidden_attention`` these still take part.
        """
        if not self.hidden_attention:
            x = self._decode_apart(tokens_BVD, ids_visible_BV, ids_hidden_BN, context_BTD)
            return self.pred(self.norm(x))
        x = self(tokens_BVD, ids_visible_BV, context_BTD)[:, 1:]
        hidden_BND = ids_hidden_BN[:, :, None].expand(-1, -1, x.shape[2])
        return self.pred(self.norm(x.gather(1, hidden_BND)))

    def _decode_apart(
        self,
        tokens_BVD: Tensor,
        ids_visible_BV: Tensor,
        ids_hidden_BN: Tensor,
        context_BTD: Tensor | None,
    ) -> Tensor:
        """Runs the blocks without attention to hidden patches: (B, N, dim), before the final norm."""
        positions = self.pos_embed[:, 1:].expand(len(tokens_BVD), -1, -1)
        visible, hidden = (
            positions.gather(1, ids[:, :, None].expand(-1, -1, positions.shape[2]))
            for ids in (ids_visible_BV, ids_hidden_BN)
        )
        x = self.embed(tokens_BVD)
        first = [x[:, :1] + self.pos_embed[:, :1], x[:, 1:] + visible]
        if context_BTD is not None:
            first.append(context_BTD.to(x.dtype))
        num_keys = sum(part.shape[1] for part in first)
        x = torch.cat([*first, self.mask_token.to(x.dtype) + hidden], dim=1)
        return run_blocks(self.blocks, x, self.use_act_checkpoint, num_keys)[:, num_keys:]
