"""R-MAE as a Detectron2 meta-architecture: masked autoencoding of pixels and regions.

The journey: patchify -> mask -> encode visible pixels -> decode pixels -> decode regions -> losses.
Both branches are optional: without a region branch this is MAE, without a pixel decoder RAE.

Letters: B images, C channels, H W pixels, L patches, V visible patches, N hidden patches, K regions,
P patch side, X values a patch. Masks: True = hidden.

Reference: Nguyen, Vaibhav, Yang, Xie, He, Chen, "R-MAE: Regions Meet Masked Autoencoders", ICLR 2024.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from .build import parts_from_cfg
from .losses import patch_statistics, pixel_loss, region_loss
from .masking import RandomMasking, mask_from_order, num_visible
from .patches import gather_patches, patchify, unpatchify
from .pixel_decoder import PixelDecoder
from .pixel_encoder import PixelEncoder
from .region_branch import RegionBranch, gather_region_patches


@dataclass(frozen=True)
class _Split:
    """Which patches a branch sees: (B, V) visible and (B, N) hidden indices."""

    visible: Tensor
    hidden: Tensor

    @classmethod
    def of(cls, ids_shuffle_BL: Tensor, mask_ratio: float) -> "_Split":
        visible = num_visible(ids_shuffle_BL.shape[1], mask_ratio)
        return cls(ids_shuffle_BL[:, :visible], ids_shuffle_BL[:, visible:])


@META_ARCH_REGISTRY.register()
class RMAE(nn.Module):
    """R-MAE, MAE or RAE pre-training.

    Args:
        backbone: the pixel encoder. Its keys ``backbone.net.*`` are those of a ViTDet.
        pixel_decoder: None for RAE.
        region_branch: None for MAE.
        mask_ratio: beta_I, the hidden share of pixel patches. The region branch may have its own,
            beta_R; it then keeps another prefix of the same patch order.
        masking: the masking policy, see :mod:`rmae_d2.modeling.masking`.
        norm_pix_loss: predict pixels normalised patch by patch.
        pixel_weight, region_weight: weights of the two losses in their sum.
        background_weight: weight of background pixels in the region loss.
        pixel_mean, pixel_std: of the images in the unit that the loader delivers (0-255), one a channel.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: PixelEncoder,
        pixel_decoder: PixelDecoder | None = None,
        region_branch: RegionBranch | None = None,
        mask_ratio: float = 0.75,
        masking: Callable[[Tensor, int], Tensor] | None = None,
        norm_pix_loss: bool = True,
        pixel_weight: float = 1.0,
        region_weight: float = 1.0,
        background_weight: float = 1.0,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
    ) -> None:
        super().__init__()
        if pixel_decoder is None and region_branch is None:
            raise ValueError(
                "RMAE needs a pixel decoder, a region branch, or both: nothing to learn"
            )
        for name, part in (("pixel_decoder", pixel_decoder), ("region_branch", region_branch)):
            if part is not None and tuple(part.grid) != backbone.net.grid:
                raise ValueError(
                    f"{name} has a grid of {tuple(part.grid)} patches, the backbone "
                    f"{backbone.net.grid} (img_size {backbone.net.img_size}, "
                    f"patch_size {backbone.net.patch_size})"
                )
        if not len(pixel_mean) == len(pixel_std) == backbone.net.in_chans:
            raise ValueError(
                f"{len(pixel_mean)} values in pixel_mean and {len(pixel_std)} in pixel_std "
                f"for a backbone of {backbone.net.in_chans} channels"
            )
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.region_branch = region_branch
        self.mask_ratio = mask_ratio
        self.masking = masking or RandomMasking()
        self.norm_pix_loss = norm_pix_loss
        self.pixel_weight = pixel_weight
        self.region_weight = region_weight
        self.background_weight = background_weight
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Arguments from a yacs config holding ``MODEL.RMAE`` (:func:`add_rmae_config`)."""
        return parts_from_cfg(cfg)

    @property
    def device(self) -> torch.device:
        """Where the images are taken to."""
        return self.pixel_mean.device

    @property
    def patch_size(self) -> int:
        """P, in pixels."""
        return self.backbone.net.patch_size

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Detectron2's contract.

        Args:
            batched_inputs: dicts of ``image`` (C, H, W) in the loader's range 0-255; with a region branch
                ``regions``, uint8 bit planes (ceil(K / 8), H, W), bit k % 8 of plane k // 8 being region k,
                and ``num_regions`` K, or a bool (K, H, W); optionally ``mask_seed``, an int. Without seeds
                masks are drawn from torch's generator in training and from seed 0 in evaluation.

        Returns:
            in training the weighted losses ``loss_pixel``, ``loss_region`` of the branches present; in
            evaluation a dict an image: unweighted ``loss_pixel``, ``loss_region`` (0-d), ``mask`` bool (L,),
            ``pred_pixels`` (L, P*P*C), ``pred_regions`` logits (K, L, P*P), and to look at:
            ``reconstruction``, the image with its hidden patches predicted, float 0-255 (C, H, W), and
            ``region_probability`` (K, H, W), the visible patches as given and the hidden ones predicted.
        """
        images = self.preprocess_image(batched_inputs)
        regions = self.preprocess_regions(batched_inputs) if self.region_branch else None
        ids_shuffle_BL = self.patch_order(batched_inputs)
        if self.training:
            parts = self._run(images, regions, ids_shuffle_BL)
            weights = {"loss_pixel": self.pixel_weight, "loss_region": self.region_weight}
            return {name: weights[name] * parts[name].mean() for name in weights if name in parts}
        outputs = self.forward_tensors(images, regions, ids_shuffle_BL, per_image=True)
        outputs.update(self._pictures(images, regions, outputs))
        outputs.pop("loss")
        return [{name: value[i] for name, value in outputs.items()} for i in range(len(images))]

    def forward_tensors(
        self,
        images_BCHW: Tensor,
        regions_BKHW: Tensor | None = None,
        ids_shuffle_BL: Tensor | None = None,
        per_image: bool = False,
    ) -> dict[str, Tensor]:
        """The model on plain tensors.

        Args:
            images_BCHW: normalised float images of the backbone's size.
            regions_BKHW: region maps, float 0/1 or bool; needed by a region branch.
            ids_shuffle_BL: int64 patch orders, the first V are visible; None draws them with ``masking``.
            per_image: leave the losses as (B,) instead of their means.

        Returns:
            ``loss`` (weighted sum) and, of the branches present: ``loss_pixel``, ``loss_region``,
            ``pred_pixels`` (B, L, P*P*C), ``pred_regions`` logits (B, K, L, P*P); 0 where not predicted.
            ``mask`` bool (B, L), and ``region_mask`` where the region branch hides other patches.

        Raises:
            ValueError: for images of another size, and regions that are absent or of another size.
        """
        if ids_shuffle_BL is None:
            ids_shuffle_BL = self.masking(_random_seeds(images_BCHW), self.backbone.net.num_patches)
        parts = self._run(images_BCHW, regions_BKHW, ids_shuffle_BL)
        L = ids_shuffle_BL.shape[1]
        split: _Split = parts["split"]
        out = {"mask": mask_from_order(ids_shuffle_BL, split.visible.shape[1])}
        if "loss_pixel" in parts:
            out["loss_pixel"] = parts["loss_pixel"]
            out["pred_pixels"] = _place(parts["pred_pixels"], split.hidden, L)
        if "loss_region" in parts:
            region_split: _Split = parts["region_split"]
            out["loss_region"] = parts["loss_region"]
            out["pred_regions"] = _place(parts["pred_regions"], region_split.hidden, L)
            out["region_mask"] = mask_from_order(ids_shuffle_BL, region_split.visible.shape[1])
        if not per_image:
            out.update({k: v.mean() for k, v in out.items() if k.startswith("loss")})
        weights = {"loss_pixel": self.pixel_weight, "loss_region": self.region_weight}
        out["loss"] = torch.stack([w * out[k] for k, w in weights.items() if k in out]).sum(dim=0)
        return out

    def _run(
        self, images_BCHW: Tensor, regions_BKHW: Tensor | None, ids_shuffle_BL: Tensor
    ) -> dict[str, Any]:
        """Patchify, mask, encode, decode, losses (B,); predictions on hidden patches only."""
        net = self.backbone.net
        if tuple(images_BCHW.shape[1:]) != (net.in_chans, *net.img_size):
            raise ValueError(
                f"images of shape (C, H, W) = {tuple(images_BCHW.shape[1:])} given to a model of "
                f"{(net.in_chans, *net.img_size)}: set the mapper's crop size or model img_size"
            )
        patches_BLX = patchify(images_BCHW, self.patch_size)
        split = _Split.of(ids_shuffle_BL, self.mask_ratio)
        tokens_BVD = self.backbone(patches_BLX, split.visible)
        out: dict[str, Any] = {"split": split}
        if self.pixel_decoder is not None:
            pred = self.pixel_decoder.decode(tokens_BVD, split.visible, split.hidden)
            target = gather_patches(patches_BLX, split.hidden)
            out["pred_pixels"] = pred
            out["loss_pixel"] = pixel_loss(pred, target, self.norm_pix_loss)
        if self.region_branch is not None:
            if regions_BKHW is None:
                raise ValueError(
                    "this model has a region branch but was given no regions: give the mapper a region "
                    "source (dataloader.train.mapper.regions) or set model.region_branch=null for MAE"
                )
            B, _, H, W = images_BCHW.shape
            if (regions_BKHW.shape[0], *regions_BKHW.shape[2:]) != (B, H, W):
                raise ValueError(
                    f"region maps of shape (B, K, H, W) = {tuple(regions_BKHW.shape)} given with images of "
                    f"(B, C, H, W) = {tuple(images_BCHW.shape)}: they must be of the same crop"
                )
            ratio = self.region_branch.mask_ratio
            region_split = split if ratio is None else _Split.of(ids_shuffle_BL, ratio)
            patches_BKLX = self._patchify_regions(regions_BKHW)
            logits = self.region_branch(
                tokens_BVD, split.visible, patches_BKLX, region_split.visible, region_split.hidden
            )
            region_target = gather_region_patches(patches_BKLX, region_split.hidden)
            out["region_split"] = region_split
            out["pred_regions"] = logits
            out["loss_region"] = region_loss(logits, region_target, self.background_weight)
        return out

    def _patchify_regions(self, regions_BKHW: Tensor) -> Tensor:
        B, K = regions_BKHW.shape[:2]
        return patchify(regions_BKHW.flatten(0, 1)[:, None], self.patch_size).unflatten(0, (B, K))

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> Tensor:
        """Stacks, moves to the device and normalises: (B, C, H, W) float32."""
        images = torch.stack([x["image"] for x in batched_inputs])
        images = images.to(self.device, non_blocking=True).float()
        return (images - self.pixel_mean) / self.pixel_std

    def preprocess_regions(self, batched_inputs: list[dict[str, Any]]) -> Tensor | None:
        """Unpacks the region maps on the device: (B, K, H, W) bool, or None where there are none."""
        if "regions" not in batched_inputs[0]:
            return None
        regions = torch.stack([x["regions"] for x in batched_inputs])
        regions = regions.to(self.device, non_blocking=True)
        if regions.dtype == torch.bool:
            return regions
        counts = {int(x["num_regions"]) for x in batched_inputs}
        if len(counts) != 1:
            raise ValueError(f"a batch needs one num_regions, this one has {sorted(counts)}")
        k = torch.arange(counts.pop(), device=self.device)
        return (regions[:, k // 8] >> (k % 8).view(-1, 1, 1).to(torch.uint8)) & 1 > 0

    def patch_order(self, batched_inputs: list[dict[str, Any]]) -> Tensor:
        """ids_shuffle_BL of a batch, from the samples' ``mask_seed`` where they carry one."""
        if "mask_seed" in batched_inputs[0]:
            seeds = torch.tensor([int(x["mask_seed"]) for x in batched_inputs])
            seeds = seeds.to(self.device, non_blocking=True)
        elif self.training:
            seeds = _random_seeds(self.pixel_mean.expand(len(batched_inputs), -1, -1, -1))
        else:
            seeds = torch.zeros(len(batched_inputs), dtype=torch.int64, device=self.device)
        return self.masking(seeds, self.backbone.net.num_patches)

    @torch.no_grad()
    def _pictures(
        self, images_BCHW: Tensor, regions_BKHW: Tensor | None, outputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """What a person looks at; see :meth:`forward`."""
        grid = self.backbone.net.grid
        pictures: dict[str, Tensor] = {}
        if "pred_pixels" in outputs:
            patches = patchify(images_BCHW, self.patch_size)
            pred = outputs["pred_pixels"].float()
            if self.norm_pix_loss:
                # Patch statistics are not predicted: they are taken from the image, for display only.
                mean, std = patch_statistics(patches)
                pred = pred * std + mean
            merged = torch.where(outputs["mask"][:, :, None], pred, patches)
            image = unpatchify(merged, grid, self.patch_size) * self.pixel_std + self.pixel_mean
            pictures["reconstruction"] = image.clamp(0, 255)
        if "pred_regions" in outputs and regions_BKHW is not None:
            patches = self._patchify_regions(regions_BKHW).float()
            hidden = outputs["region_mask"][:, None, :, None]
            merged = torch.where(hidden, outputs["pred_regions"].float().sigmoid(), patches)
            B, K = merged.shape[:2]
            maps = unpatchify(merged.flatten(0, 1), grid, self.patch_size)
            pictures["region_probability"] = maps[:, 0].unflatten(0, (B, K))
        return pictures


def _random_seeds(like_B: Tensor) -> Tensor:
    return torch.randint(0, 2**62, (len(like_B),), device=like_B.device)


def _place(pred: Tensor, ids_hidden_BN: Tensor, num_patches: int) -> Tensor:
    """Puts predictions (B, ..., N, X) at their patches: (B, ..., L, X), 0 elsewhere."""
    *lead, _, X = pred.shape
    ids = ids_hidden_BN.view(len(ids_hidden_BN), *(1,) * (len(lead) - 1), -1, 1).expand_as(pred)
    return pred.new_zeros(*lead, num_patches, X).scatter(-2, ids, pred)
