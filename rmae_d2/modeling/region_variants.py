"""The region branch's other two variants, which keep regions spatial: channel and batch (R-MAE, table 1).

    visible region patches -> region encoder -> mask tokens fill the hidden patches --+
    pixel encoder tokens   -> neck           -> memory ------------------------------ add -> region decoder

Only summaries of the paper were available: channel stacks the K maps as channels and predicts K*P*P values
per patch, batch gives each region its own pass. Where they give no detail, this follows MAE's decoder with
the length variant's sizes: region and pixel features are added patch by patch, the region decoder is plain
ViT blocks, the head a three-layer MLP. In the batch variant too, the pixel encoder and the neck run once per
image, because they do not depend on the region.

Letters: B images, K regions, L patches, V visible patches, N hidden patches, D width, P patch side.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .patches import sincos_position_embedding
from .pixel_decoder import MaskTokenTransformer
from .pixel_encoder import LayerNorm, init_linear, make_blocks
from .region_branch import RegionEncoder, mean_token


class RegionDecoder(nn.Module):
    """A ViT over all patches: region features with mask tokens for hidden patches, plus pixel features."""

    def __init__(
        self, in_dim: int, grid: tuple[int, int], dim: int, depth: int, num_heads: int, out_dim: int
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
        x = (filled + self.pos_embed + memory_BLD[:, None]).flatten(0, 1)
        for block in self.blocks:
            x = block(x)
        hidden_BKND = ids_hidden_BN[:, None, :, None].expand(-1, K, -1, D)
        return self.pred(self.norm(x.unflatten(0, (B, K)).gather(2, hidden_BKND)))


class SpatialRegionBranch(nn.Module):
    """Base of both variants: passes over C region maps each, stacked as channels.

    Args:
        num_regions: K if all regions share a pass (C = K); None for one pass per region (C = 1).
        decoder_depth: number of ViT blocks in the region decoder.
        The others: as in `RegionBranch`.
    """

    def __init__(
        self,
        in_dim: int,
        grid: tuple[int, int],
        patch_size: int,
        num_regions: int | None = None,
        mask_ratio: float | Sequence[float] | None = None,
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
        self.num_regions = num_regions
        self.maps_a_pass = num_regions or 1
        self.summary_dim = encoder_dim
        self.neck = MaskTokenTransformer(in_dim, grid, decoder_dim, neck_depth, decoder_num_heads)
        encoder = (encoder_dim, encoder_depth, encoder_num_heads)
        self.encoder = RegionEncoder(grid, patch_size, *encoder, in_chans=self.maps_a_pass)
        decoder = (decoder_dim, decoder_depth, decoder_num_heads)
        out_dim = patch_size * patch_size * self.maps_a_pass
        self.decoder = RegionDecoder(encoder_dim, grid, *decoder, out_dim=out_dim)

    def forward(
        self,
        tokens_BVD: Tensor,
        ids_visible_BV: Tensor,
        region_patches_BKLX: Tensor,
        ids_region_visible_BV: Tensor,
        ids_region_hidden_BN: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Predicts the hidden patches of every region map; arguments as in `RegionBranch.forward`.

        Returns:
            Logits (B, K, N, P*P), and a summary of the visible region patches only: the mean of each
            pass's encoded patches, (B, K / C, summary_dim).

        Raises:
            UserError: if the number of regions is not ``num_regions``.
        """
        _, given, _, X = region_patches_BKLX.shape
        if self.num_regions not in (None, given):
            raise UserError(
                f"{given} region maps given to a channel variant of num_regions={self.num_regions}: set "
                "dataloader.train.mapper.num_regions and model.region_branch.num_regions alike"
            )
        memory = self.neck.norm(self.neck(tokens_BVD, ids_visible_BV))[:, 1:]
        ids_BKVX = ids_region_visible_BV[:, None, :, None].expand(-1, given, -1, X)
        visible_BKVX = region_patches_BKLX.gather(2, ids_BKVX)
        # (B, K, V, X) -> (B, K / C, V, X*C), channels last as in patchify; the inverse for the logits.
        grouped = visible_BKVX.unflatten(1, (-1, self.maps_a_pass)).permute(0, 1, 3, 4, 2)
        encoded = self.encoder(grouped.flatten(3).to(tokens_BVD.dtype), ids_region_visible_BV)
        logits = self.decoder(encoded, ids_region_visible_BV, memory, ids_region_hidden_BN)
        split = logits.unflatten(3, (-1, self.maps_a_pass)).permute(0, 1, 4, 2, 3)
        return split.flatten(1, 2), mean_token(encoded)


class BatchRegionBranch(SpatialRegionBranch):
    """Treats each region as its own sample, with the memory of its image.

    Permutation-equivariant over regions, which do not see each other. The cost of region encoder and
    decoder is proportional to K. ``sizes`` are further arguments of `SpatialRegionBranch`.
    """

    def __init__(
        self, in_dim: int, grid: tuple[int, int], patch_size: int = 16, **sizes: Any
    ) -> None:
        super().__init__(in_dim, grid, patch_size, None, **sizes)


class ChannelRegionBranch(SpatialRegionBranch):
    """Processes all regions in one pass, stacked as channels: cheap, but K is fixed and order matters."""

    def __init__(
        self,
        in_dim: int,
        grid: tuple[int, int],
        patch_size: int = 16,
        num_regions: int = 8,
        **sizes: Any,
    ) -> None:
        super().__init__(in_dim, grid, patch_size, num_regions, **sizes)
