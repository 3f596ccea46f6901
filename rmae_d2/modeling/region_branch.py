"""The region branch, length variant: regions enter the decoder as queries (R-MAE, section 3.2, figure 1).

    visible region patches -> region encoder -> mean -> one query a region
    pixel encoder tokens   -> neck           -> memory
    queries + memory       -> region decoder -> binary region maps on the hidden patches

Letters: B images, K regions, L patches, V visible patches, N hidden patches, D width, P patch side.
"""

from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from .patches import PatchEmbed, gather_patches, sincos_position_embedding
from .pixel_decoder import MaskTokenTransformer
from .pixel_encoder import LayerNorm, init_linear, make_blocks


class RegionEncoder(nn.Module):
    """A small ViT over the visible patches of one region map, pooled to one vector."""

    def __init__(
        self, grid: tuple[int, int], patch_size: int, dim: int, depth: int, num_heads: int
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(patch_size, 1, dim)
        self.pos_embed = nn.Parameter(
            sincos_position_embedding(dim, grid, cls_token=False), requires_grad=False
        )
        self.blocks = make_blocks(dim, depth, num_heads)

    def forward(self, visible_BKVX: Tensor, ids_visible_BV: Tensor) -> Tensor:
        """One vector a region.

        Args:
            visible_BKVX: visible patches of the region maps, 0 or 1, (B, K, V, P*P).
            ids_visible_BV: where they sit.

        Returns:
            (B, K, D).
        """
        B, K, V, _ = visible_BKVX.shape
        pos_embed = gather_patches(self.pos_embed.expand(B, -1, -1), ids_visible_BV)
        # Shifted to be centred on zero, as the pixels are.
        x = self.patch_embed(visible_BKVX.flatten(0, 1) - 0.5)
        x = x.unflatten(0, (B, K)) + pos_embed[:, None]
        x = x.flatten(0, 1)
        for block in self.blocks:
            x = block(x)
        return x.mean(dim=1).unflatten(0, (B, K))


class CrossAttentionBlock(nn.Module):
    """DETR's decoder block, pre-norm: queries attend to each other, then to the memory, then an MLP."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.self_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm2 = LayerNorm(dim)
        self.cross_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm3 = LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.mlp.apply(init_linear)

    def forward(self, queries_BKD: Tensor, memory_BLD: Tensor) -> Tensor:
        """(B, K, D), (B, 1 + L, D) -> (B, K, D)."""
        x = self.norm1(queries_BKD)
        queries_BKD = queries_BKD + self.self_attn(x, x, x, need_weights=False)[0]
        x = self.norm2(queries_BKD)
        attended = self.cross_attn(x, memory_BLD, memory_BLD, need_weights=False)[0]
        queries_BKD = queries_BKD + attended
        return queries_BKD + self.mlp(self.norm3(queries_BKD))


class ExpansionBlock(nn.Module):
    """Expands every query over space by adding it to all values (R-MAE, figure 2).

    As the published code has it: no softmax attention to the memory, and an MLP without a residual.
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
        grid: (Gh, Gw).
        patch_size: P.
        mask_ratio: beta_R, the hidden share of region patches; None for the pixels' own ratio.
        decoder_depth: number of decoder blocks, the last of which is the expansion block.
    """

    def __init__(
        self,
        in_dim: int,
        grid: tuple[int, int],
        patch_size: int = 16,
        mask_ratio: float | None = None,
        neck_depth: int = 1,
        encoder_dim: int = 128,
        encoder_depth: int = 1,
        encoder_num_heads: int = 8,
        decoder_dim: int = 128,
        decoder_depth: int = 1,
        decoder_num_heads: int = 8,
    ) -> None:
        super().__init__()
        if decoder_depth < 1:
            raise ValueError("decoder_depth counts the expansion block, so it is at least 1")
        self.grid = grid
        self.mask_ratio = mask_ratio
        self.neck = MaskTokenTransformer(in_dim, grid, decoder_dim, neck_depth, decoder_num_heads)
        self.encoder = RegionEncoder(
            grid, patch_size, encoder_dim, encoder_depth, encoder_num_heads
        )
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
    ) -> Tensor:
        """Predicts the hidden patches of every region map.

        Args:
            tokens_BVD: pixel encoder output, (B, 1 + V, in_dim), cls token first.
            ids_visible_BV: visible pixel patches.
            region_patches_BKLX: all patches of the region maps, any dtype, (B, K, L, P*P).
            ids_region_visible_BV: visible region patches.
            ids_region_hidden_BN: region patches to predict.

        Returns:
            logits (B, K, N, P*P).
        """
        memory = self.neck.norm(self.neck(tokens_BVD, ids_visible_BV))
        visible = gather_region_patches(region_patches_BKLX, ids_region_visible_BV)
        queries = self.query(self.encoder(visible.to(tokens_BVD.dtype), ids_region_visible_BV))
        for block in self.decoder:
            queries = block(queries, memory)
        values = gather_patches(memory[:, 1:], ids_region_hidden_BN)
        return self.pred(self.expansion(queries, values))


def gather_region_patches(patches_BKLX: Tensor, ids_BV: Tensor) -> Tensor:
    """Picks the same patches of all region maps of an image: (B, K, L, X), (B, V) -> (B, K, V, X)."""
    B, K, _, X = patches_BKLX.shape
    return patches_BKLX.gather(2, ids_BV[:, None, :, None].expand(B, K, ids_BV.shape[1], X))
