"""The region branch's other two variants, which keep regions spatial: channel and batch (R-MAE, table 1).

    visible region patches -> region encoder -> mask tokens fill the hidden patches --+
    pixel encoder tokens   -> neck           -> memory ------------------------------ add -> region decoder

Only summaries of the paper were at hand: channel stacks the K maps as channels and predicts K*P*P values a
patch, batch gives each region a pass of its own. Where they are silent, the reading is MAE's decoder with the
length variant's sizes: region and pixel features are added patch by patch, the region decoder is plain ViT
blocks, the head a three-layer MLP. The pixel encoder and the neck run once an image also in the batch
variant, for they do not depend on the region.

Letters: B images, K regions, L patches, V visible patches, N hidden patches, D width, P patch side.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .patches import gather_region_patches, sincos_position_embedding
from .pixel_decoder import MaskTokenTransformer
from .pixel_encoder import LayerNorm, init_linear, make_blocks
from .region_branch import RegionEncoder


class RegionDecoder(nn.Module):
    """A ViT over all patches: region features, mask tokens for the hidden ones, pixel features added.

    Args:
        in_dim: width of the region encoder.
        out_dim: values to predict a patch.
    """

    def __init__(
        self,
        in_dim: int,
        grid: tuple[int, int],
        dim: int,
        depth: int,
        num_heads: int,
        out_dim: int,
    ) -> None:
        super().__init__()
        self.embed = nn.Sequential(LayerNorm(in_dim), nn.Linear(in_dim, dim))
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim).normal_(std=0.02))
        self.pos_embed = nn.Parameter(
            sincos_position_embedding(dim, grid, cls_token=False), requires_grad=False
        )
        self.blocks = make_blocks(dim, depth, num_heads)
        self.norm = LayerNorm(dim)
        self.pred = nn.Sequential(
            nn.Linear(dim, dim),
            nn.GELU(),
            nn.Linear(dim, dim),
            nn.GELU(),
            nn.Linear(dim, out_dim),
        )
        self.embed.apply(init_linear)
        self.pred.apply(init_linear)

    def forward(
        self,
        encoded_BKVD: Tensor,
        ids_visible_BV: Tensor,
        memory_BLD: Tensor,
        ids_hidden_BN: Tensor,
    ) -> Tensor:
        """(B, K, V, in_dim), (B, V), (B, L, dim), (B, N) -> logits (B, K, N, out_dim)."""
        x = self.embed(encoded_BKVD)
        B, K, V, D = x.shape
        L = memory_BLD.shape[1]
        ids = ids_visible_BV[:, None, :, None].expand(B, K, V, D)
        filled = self.mask_token.to(x.dtype).expand(B, K, L, D).scatter(2, ids, x)
        x = filled + self.pos_embed + memory_BLD[:, None]
        x = x.flatten(0, 1)
        for block in self.blocks:
            x = block(x)
        hidden = gather_region_patches(x.unflatten(0, (B, K)), ids_hidden_BN)
        return self.pred(self.norm(hidden))


class SpatialRegionBranch(nn.Module):
    """Passes of ``maps_a_pass`` region maps each, stacked as channels; what both variants are made of.

    Args:
        maps_a_pass: C, region maps that share a pass.
        mask_ratio: beta_R, the hidden share of region patches; None for the pixels' own ratio.
        decoder_depth: number of ViT blocks in the region decoder.
        The others: as of :class:`~rmae_d2.modeling.RegionBranch`.
    """

    def __init__(
        self,
        in_dim: int,
        grid: tuple[int, int],
        patch_size: int,
        maps_a_pass: int,
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
        self.grid = grid
        self.mask_ratio = mask_ratio
        self.maps_a_pass = maps_a_pass
        self.summary_dim = encoder_dim
        self.neck = MaskTokenTransformer(in_dim, grid, decoder_dim, neck_depth, decoder_num_heads)
        self.encoder = RegionEncoder(
            grid, patch_size, encoder_dim, encoder_depth, encoder_num_heads, maps_a_pass
        )
        self.decoder = RegionDecoder(
            encoder_dim,
            grid,
            decoder_dim,
            decoder_depth,
            decoder_num_heads,
            out_dim=patch_size * patch_size * maps_a_pass,
        )

    def forward(
        self,
        tokens_BVD: Tensor,
        ids_visible_BV: Tensor,
        region_patches_BKLX: Tensor,
        ids_region_visible_BV: Tensor,
        ids_region_hidden_BN: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Predicts the hidden patches of every region map; arguments as of :meth:`RegionBranch.forward`.

        Returns:
            logits (B, K, N, P*P), and what the branch knows of the visible region patches alone: the mean
            of every pass's encoded patches, (B, K / C, summary_dim).
        """
        memory = self.neck.norm(self.neck(tokens_BVD, ids_visible_BV))[:, 1:]
        visible = gather_region_patches(region_patches_BKLX, ids_region_visible_BV)
        stacked = _stack(visible, self.maps_a_pass).to(tokens_BVD.dtype)
        encoded = self.encoder(stacked, ids_region_visible_BV)
        logits = self.decoder(encoded, ids_region_visible_BV, memory, ids_region_hidden_BN)
        return _unstack(logits, self.maps_a_pass), encoded.mean(dim=2)


class BatchRegionBranch(SpatialRegionBranch):
    """Each region is a sample of its own, with the memory of its image.

    Permutation-equivariant over regions, which do not see each other. The cost of its region encoder and
    decoder is proportional to K.

    Args:
        sizes: further arguments of :class:`SpatialRegionBranch`.
    """

    def __init__(
        self, in_dim: int, grid: tuple[int, int], patch_size: int = 16, **sizes: Any
    ) -> None:
        super().__init__(in_dim, grid, patch_size, maps_a_pass=1, **sizes)


class ChannelRegionBranch(SpatialRegionBranch):
    """All regions in one pass, stacked as channels: cheap, but K is fixed and their order matters.

    Args:
        num_regions: K.
        sizes: further arguments of :class:`SpatialRegionBranch`.
    """

    def __init__(
        self,
        in_dim: int,
        grid: tuple[int, int],
        patch_size: int = 16,
        num_regions: int = 8,
        **sizes: Any,
    ) -> None:
        super().__init__(in_dim, grid, patch_size, maps_a_pass=num_regions, **sizes)

    def forward(
        self,
        tokens_BVD: Tensor,
        ids_visible_BV: Tensor,
        region_patches_BKLX: Tensor,
        ids_region_visible_BV: Tensor,
        ids_region_hidden_BN: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`SpatialRegionBranch.forward`.

        Raises:
            UserError: for another number of regions than ``num_regions``.
        """
        given = region_patches_BKLX.shape[1]
        if given != self.maps_a_pass:
            raise UserError(
                f"{given} region maps given to a channel variant of num_regions={self.maps_a_pass}: set "
                f"dataloader.train.mapper.num_regions and model.region_branch.num_regions alike"
            )
        return super().forward(
            tokens_BVD,
            ids_visible_BV,
            region_patches_BKLX,
            ids_region_visible_BV,
            ids_region_hidden_BN,
        )


def _stack(maps_BKVX: Tensor, maps_a_pass: int) -> Tensor:
    """(B, K, V, X) -> (B, K / C, V, X*C), channels last as :func:`patchify` has them."""
    grouped = maps_BKVX.unflatten(1, (-1, maps_a_pass))
    return grouped.permute(0, 1, 3, 4, 2).flatten(3)


def _unstack(logits_BGNX: Tensor, maps_a_pass: int) -> Tensor:
    """(B, K / C, N, X*C) -> (B, K, N, X)."""
    split = logits_BGNX.unflatten(3, (-1, maps_a_pass))
    return split.permute(0, 1, 4, 2, 3).flatten(1, 2)
