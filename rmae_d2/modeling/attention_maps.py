"""Attention of a ViT's patches, computed explicitly: SDPA, which the networks use, keeps no weights.

Letters: B images, A heads, T tokens (the cls token, if present, then the patches), Q queries among
them, L patches, D width, P patch side, H W pixels, Gh Gw grid.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .block_features import block_features, block_states
from .patches import grid_of
from .pixel_encoder import MaskedViT
from .transfer.vit import ViT
from .transfer.vit_attention import relative_bias, relative_scores


class AttentionViT:
    """Reads the attention of a ViT on images of any size that is a multiple of its patch size.

    Nothing is hidden. Position embeddings are interpolated to the image's grid.

    Args:
        net: ViT with its weights: the pre-training pixel encoder, which has a cls token, or the transfer
            backbone, which may have kept it. It is switched to evaluation mode.

    Attributes:
        prefix: number of tokens before the patches: 1 with a cls token, else 0.
        windowed: blocks in which patches attend only within a window.
    """

    def __init__(self, net: MaskedViT | ViT) -> None:
        self.net = net.eval().requires_grad_(False)
        blocks: Any = net.blocks
        self.depth = len(blocks)
        self.num_heads: int = blocks[0].attn.num_heads
        self.patch_size = int(net.patch_size)
        self.prefix = int(net.cls_token is not None)
        self.windowed = [i for i, block in enumerate(blocks) if getattr(block, "window_size", 0)]

    def grid(self, images_BCHW: Tensor) -> tuple[int, int]:
        """Patch grid (Gh, Gw) of the images."""
        return grid_of((images_BCHW.shape[2], images_BCHW.shape[3]), self.patch_size)

    @torch.no_grad()
    def attention(self, images_BCHW: Tensor, block: int, queries: Tensor | None = None) -> Tensor:
        """Computes the attention weights of one block.

        Args:
            images_BCHW: normalised.
            block: counted from 0, or from the end with -1.
            queries: int64 (Q,), indices of the query tokens to compute; None for all.

        Returns:
            float32 (B, A, Q or T, T); the last axis sums to 1.
        """
        if not -self.depth <= block < self.depth:
            raise UserError(
                f"block {block}: this ViT has {self.depth}, numbered 0 to {self.depth - 1}"
            )
        block %= self.depth
        if block in self.windowed:
            whole = [i for i in range(self.depth) if i not in self.windowed]
            raise UserError(
                f"in block {block} patches attend to a window only; those that see the whole image are "
                f"{', '.join(map(str, whole)) or 'none'}"
            )
        state = next(islice(block_states(self.net, images_BCHW), block, None))
        return self._weights(state, self.grid(images_BCHW), block, queries)

    @torch.no_grad()
    def rollout(self, images_BCHW: Tensor) -> Tensor:
        """Computes attention rollout over all blocks: the product of (A + I) / 2, A the mean over the heads.

        Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020.

        Returns:
            float32 (B, T, T); rows sum to 1.
        """
        if self.windowed:
            blocks = ", ".join(map(str, self.windowed))
            raise UserError(f"no rollout: in the blocks {blocks} patches attend to a window only")
        grid = self.grid(images_BCHW)
        states = islice(block_states(self.net, images_BCHW), self.depth)
        maps = (self._weights(x, grid, i, None).mean(1) for i, x in enumerate(states))
        return roll_out(maps)

    @torch.no_grad()
    def features(self, images_BCHW: Tensor) -> Tensor:
        """Patch features after the last block and, if the weights have one, the final norm: (B, L, D)."""
        return block_features(self.net, images_BCHW, reshape=False)[0].patches

    def _weights(
        self, x: Tensor, grid: tuple[int, int], index: int, queries: Tensor | None
    ) -> Tensor:
        """Attention of a block given its input ``x``: (B, T, D), or (B, Gh, Gw, D) for the backbone."""
        block: Any = self.net.blocks[index]
        attn = block.attn
        tokens_BTD = x if x.dim() == 3 else x.flatten(1, 2)
        qkv = attn.qkv(block.norm1(tokens_BTD)).unflatten(2, (3, attn.num_heads, -1))
        q, k, _ = (part.transpose(1, 2) for part in qkv.unbind(dim=2))
        chosen = q if queries is None else q[:, :, queries]
        scores = ((chosen * attn.scale) @ k.transpose(2, 3)).float()
        if getattr(attn, "use_rel_pos", False):
            rel = relative_scores(q, (attn.rel_pos_h, attn.rel_pos_w), grid)
            rows, columns = rel if queries is None else (part[:, :, queries] for part in rel)
            scores = scores + relative_bias(rows, columns, scores.shape[-1])
        return scores.softmax(dim=-1)


def roll_out(maps: Iterator[Tensor]) -> Tensor:
    """Multiplies the attention (B, T, T) of all blocks, first to last, each with its residual connection."""
    out: Tensor | None = None
    for weights in maps:
        mixed = (weights + torch.eye(weights.shape[-1], device=weights.device)) / 2
        out = mixed if out is None else mixed @ out
    assert out is not None  # a ViT has blocks
    return out
