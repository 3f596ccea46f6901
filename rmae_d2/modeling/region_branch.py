"""The region branch, length variant: regions enter the decoder as queries (R-MAE, section 3.2, figure 1).

        visible region patches -> region encoder -> pooling -> one query per region
    pixel encoder tokens   -> neck           -> memory
    queries + memory       -> region decoder -> binary region maps on the hidden patches

The other variants, with the same arguments and outputs, are in `rmae_d2.modeling.region_variants`.

Letters: B images, K regions, L patches, V visible patches, N hidden patches, D width, P patch side.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from ..errors import UserError
from .patches import PatchEmbed, sincos_position_embedding
from .pixel_decoder import MaskTokenTransformer
from .pixel_encoder import LayerNorm, init_linear, make_blocks


class RegionEncoder(nn.Module):
    """A small ViT over the visible patches of one region map, or of ``in_chans`` maps stacked as channels."""

    def __init__(
        self,
        grid: tuple[int, int],
        patch_size: int,
        dim: int,
        depth: int,
        num_heads: int,
        in_chans: int = 1,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(patch_size, in_chans, dim)
        self.pos_embed = nn.Parameter(
            sincos_position_embedding(dim, grid, cls_token=False), requires_grad=False
        )
        self.blocks = make_blocks(dim, depth, num_heads)

    def forward(self, visible_BKVX: Tensor, ids_visible_BV: Tensor) -> Tensor:
        """Encodes visible region-map patches, 0 or 1, (B, K, V, P*P*in_chans) at (B, V) -> (B, K, V, D)."""
        B, K = visible_BKVX.shape[:2]
        ids_BVD = ids_visible_BV[:, :, None].expand(-1, -1, self.pos_embed.shape[2])
        pos_embed = self.pos_embed.expand(B, -1, -1).gather(1, ids_BVD)
        # Centre on zero, like the pixels.
        x = self.patch_embed(visible_BKVX.flatten(0, 1) - 0.5)
        x = (x.unflatten(0, (B, K)) + pos_embed[:, None]).flatten(0, 1)
        for block in self.blocks:
            x = block(x)
        return x.unflatten(0, (B, K))


def mean_token(tokens_BKVD: Tensor) -> Tensor:
    """Averages (B, K, V, D) -> (B, K, D); without tokens gives zeros, whose gradients are 0."""
    return tokens_BKVD.mean(dim=2) if tokens_BKVD.shape[2] else tokens_BKVD.sum(dim=2)


class AttentionPool(nn.Module):
    """Pools tokens by attention with one learned query vector instead of their mean."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.seed = nn.Parameter(torch.empty(1, 1, dim).normal_(std=0.02))
        self.norm = LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)

    def forward(self, tokens_BKVD: Tensor) -> Tensor:
        """(B, K, V, D) -> (B, K, D)."""
        B, K = tokens_BKVD.shape[:2]
        x = self.norm(tokens_BKVD.flatten(0, 1))
        seed = self.seed.to(x.dtype).expand(B * K, -1, -1)
        pooled = self.attn(seed, x, x, need_weights=False)[0]
        return pooled.unflatten(0, (B, K)).squeeze(2)


class CrossAttention(nn.Module):
    """Multi-head attention from queries to a memory."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, queries_BKD: Tensor, memory_BLD: Tensor) -> Tensor:
        """(B, K, D), (B, 1 + L, D) -> (B, K, D)."""
        q, k, v = (
            x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for x in (self.q(queries_BKD), *self.kv(memory_BLD).chunk(2, dim=2))
        )
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CrossAttentionBlock(nn.Module):
    """Pre-norm DETR decoder block: queries attend to each other, then to the memory, then an MLP.

    As in the published code, the memory is normalised by the neck and not again here.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = Attention(dim, num_heads, qkv_bias=True)
        self.norm2 = LayerNorm(dim)
        self.cross_attn = CrossAttention(dim, num_heads)
        self.norm3 = LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.apply(init_linear)

    def forward(self, queries_BKD: Tensor, memory_BLD: Tensor) -> Tensor:
        """(B, K, D), (B, 1 + L, D) -> (B, K, D)."""
        queries_BKD = queries_BKD + self.attn(self.norm1(queries_BKD))
        queries_BKD = queries_BKD + self.cross_attn(self.norm2(queries_BKD), memory_BLD)
        return queries_BKD + self.mlp(self.norm3(queries_BKD))


class ExpansionBlock(nn.Module):
    """Expands each query spatially by adding it to all values (R-MAE, figure 2).

    As in the published code: no softmax attention to the memory, and an MLP without a residual.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = Attention(dim, num_heads, qkv_bias=True)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, dim)
        self.apply(init_linear)

    def forward(self, queries_BKD: Tensor, values_BND: Tensor) -> Tensor:
        """(B, K, D), (B, N, D) -> (B, K, N, D)."""
        queries_BKD = queries_BKD + self.attn(self.norm1(queries_BKD))
        expanded = queries_BKD[:, :, None] + self.proj(values_BND)[:, None]
        return self.mlp(self.norm2(expanded))


class RegionBranch(nn.Module):
    """Neck, region encoder and region decoder.

    Defaults are the paper's: one block of width 128 each. The published code has ``neck_depth=8``.

    Args:
        in_dim: width of the pixel encoder.
        mask_ratio: beta_R, the fraction of region patches hidden; None uses the pixels' ratio. With 0,
            regions are input only; with 1, they are targets only, and all queries are one learned vector. A
            pair: drawn between the two for each training step (not in the paper), the pixels' ratio in
            evaluation.
        decoder_depth: number of decoder blocks, the last of which is the expansion block.
        query_pool: how a region's encoded patches become its query: ``mean`` (the paper's) or ``attention``.
    """

    def __init__(
        self,
        in_dim: int,
        grid: tuple[int, int],
        patch_size: int = 16,
        mask_ratio: float | Sequence[float] | None = None,
        neck_depth: int = 1,
        encoder_dim: int = 128,
        encoder_depth: int = 1,
        encoder_num_heads: int = 8,
        decoder_dim: int = 128,
        decoder_depth: int = 1,
        decoder_num_heads: int = 8,
        query_pool: str = "mean",
    ) -> None:
        super().__init__()
        if decoder_depth < 1:
            raise UserError("decoder_depth counts the expansion block, so it is at least 1")
        if query_pool not in ("mean", "attention"):
            raise UserError(f"query_pool={query_pool!r}: must be 'mean' or 'attention'")
        if query_pool == "attention" and mask_ratio == 1:
            raise UserError(
                "query_pool='attention' with mask_ratio=1: no region patch is visible to attend to. Set "
                "model.region_branch.query_pool=mean"
            )
        self.grid = grid
        self.mask_ratio = mask_ratio
        self.summary_dim = decoder_dim
        self.neck = MaskTokenTransformer(in_dim, grid, decoder_dim, neck_depth, decoder_num_heads)
        encoder = (encoder_dim, encoder_depth, encoder_num_heads)
        self.encoder = RegionEncoder(grid, patch_size, *encoder)
        pooled = query_pool == "attention"
        self.pool = AttentionPool(encoder_dim, encoder_num_heads) if pooled else None
        self.query = nn.Sequential(LayerNorm(encoder_dim), nn.Linear(encoder_dim, decoder_dim))
        self.decoder = nn.ModuleList(
            CrossAttentionBlock(decoder_dim, decoder_num_heads) for _ in range(decoder_depth - 1)
        )
        self.expansion = ExpansionBlock(decoder_dim, decoder_num_heads)
        self.pred = nn.Sequential(nn.GELU(), nn.Linear(decoder_dim, patch_size * patch_size))
        self.query.apply(init_linear)
        self.pred.apply(init_linear)

    def forward(
        self,
        tokens_BVD: Tensor,
        ids_visible_BV: Tensor,
        region_patches_BKLX: Tensor,
        ids_region_visible_BV: Tensor,
        ids_region_hidden_BN: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Predicts the hidden patches of every region map.

        Args:
            tokens_BVD: pixel encoder output for ``ids_visible_BV``, (B, 1 + V, in_dim), cls token first.
            region_patches_BKLX: all patches of the region maps, any dtype, (B, K, L, P*P), of which
                ``ids_region_visible_BV`` are visible and ``ids_region_hidden_BN`` are predicted.

        Returns:
            Logits (B, K, N, P*P), and the region queries (B, K, summary_dim), which encode the visible region
            patches only and may be fed to the pixel decoder (R-MAE, table 1e).
        """
        memory = self.neck.norm(self.neck(tokens_BVD, ids_visible_BV))
        _, K, _, X = region_patches_BKLX.shape
        ids_BKVX = ids_region_visible_BV[:, None, :, None].expand(-1, K, -1, X)
        visible = region_patches_BKLX.gather(2, ids_BKVX)
        encoded = self.encoder(visible.to(tokens_BVD.dtype), ids_region_visible_BV)
        summary = self.query(mean_token(encoded) if self.pool is None else self.pool(encoded))
        queries = summary
        for block in self.decoder:
            queries = block(queries, memory)
        hidden_BND = ids_region_hidden_BN[:, :, None].expand(-1, -1, memory.shape[2])
        values = memory[:, 1:].gather(1, hidden_BND)
        return self.pred(self.expansion(queries, values)), summary
