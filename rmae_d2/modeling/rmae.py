"""R-MAE as a Detectron2 meta-architecture: masked autoencoding of pixels and regions.

The journey: patchify -> mask -> encode visible pixels -> decode regions -> decode pixels -> losses.
Both branches are optional: without a region branch this is MAE, without a pixel decoder RAE.

Letters: B images, C channels, H W pixels, L patches, V visible patches, N hidden patches, K regions,
P patch side, X values a patch. Masks: True = hidden.

Reference: Nguyen, Vaibhav, Yang, Xie, He, Chen, "R-MAE: Regions Meet Masked Autoencoders", ICLR 2024.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ..errors import UserError
from .build import parts_from_cfg
from .feeding import link_to_pixels
from .losses import REGION_CRITERIA, pixel_loss, region_loss
from .masking.base import (
    MaskingPolicy,
    MaskPlan,
    MaskRequest,
    RandomMasking,
    mask_from_order,
    num_visible,
    plan_masks,
)
from .patches import gather_patches, patchify, place_patches
from .pictures import completed_images, completed_regions
from .pixel_decoder import PixelDecoder
from .pixel_encoder import PixelEncoder
from .region_branch import RegionBranch, drop_regions, gather_region_patches, patchify_regions
from .region_variants import ChannelRegionBranch, SpatialRegionBranch

_COMPILED = "_compiled_run"


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
        region_branch: None for MAE. The length variant, or one of :mod:`.region_variants`.
        mask_ratio: beta_I, the hidden share of pixel patches. The region branch may have its own,
            beta_R; it then keeps another prefix of the same patch order.
        masking: the masking policy, see :mod:`rmae_d2.modeling.masking.base`.
        norm_pix_loss: predict pixels normalised patch by patch.
        pixel_weight, region_weight: weights of the two losses in their sum.
        background_weight: weight of background pixels in the region loss.
        region_criterion: ``bce`` or ``l2``, see :func:`.losses.region_loss`.
        feeding: which branch hears of the other, one of :data:`.feeding.FEEDINGS` (R-MAE, table 1e).
            ``pixel_to_region``, the paper's: the region branch gets the pixel encoder's output.
            ``region_to_pixel``: it gets zeros, and the pixel decoder gets the encoded regions as further
            tokens. ``both``: each gets the other's. The paper's summaries name the three and no more.
        region_dropout: train with the first 1 to K regions of a batch, see :func:`.drop_regions`.
        pixel_mean, pixel_std: of the images in the unit that the loader delivers (0-255), one a channel.

    Attributes:
        progress: share of the training run that is done, in [0, 1], for masking policies with a schedule.
        scalars: what the masking policy had to report of the last training batch, 0-d tensors by name.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: PixelEncoder,
        pixel_decoder: PixelDecoder | None = None,
        region_branch: RegionBranch | SpatialRegionBranch | None = None,
        mask_ratio: float = 0.75,
        masking: MaskingPolicy | None = None,
        norm_pix_loss: bool = True,
        pixel_weight: float = 1.0,
        region_weight: float = 1.0,
        background_weight: float = 1.0,
        region_criterion: str = "bce",
        feeding: str = "pixel_to_region",
        region_dropout: bool = False,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
    ) -> None:
        super().__init__()
        if pixel_decoder is None and region_branch is None:
            raise UserError(
                "RMAE needs a pixel decoder, a region branch, or both: nothing to learn"
            )
        for name, part in (("pixel_decoder", pixel_decoder), ("region_branch", region_branch)):
            if part is not None and tuple(part.grid) != backbone.net.grid:
                raise UserError(
                    f"{name} has a grid of {tuple(part.grid)} patches, the backbone "
                    f"{backbone.net.grid} (img_size {backbone.net.img_size}, "
                    f"patch_size {backbone.net.patch_size})"
                )
        for ratio in (mask_ratio, getattr(region_branch, "mask_ratio", None)):
            if ratio is not None:  # at once, not in the first step
                num_visible(backbone.net.num_patches, ratio)
        if not len(pixel_mean) == len(pixel_std) == backbone.net.in_chans:
            raise UserError(
                f"{len(pixel_mean)} values in pixel_mean and {len(pixel_std)} in pixel_std "
                f"for a backbone of {backbone.net.in_chans} channels"
            )
        if region_criterion not in REGION_CRITERIA:
            raise UserError(f"region_criterion={region_criterion!r}: one of {REGION_CRITERIA}")
        if region_dropout and isinstance(region_branch, ChannelRegionBranch):
            raise UserError(
                "region_dropout=True with the channel variant, whose K is fixed: use another variant"
            )
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.region_branch = region_branch
        self.feeding = feeding
        self.region_to_pixel = link_to_pixels(feeding, region_branch, pixel_decoder)
        self.mask_ratio = mask_ratio
        self.masking = masking or RandomMasking()
        self.progress = 0.0
        self.scalars: dict[str, Tensor] = {}
        self.norm_pix_loss = norm_pix_loss
        self.pixel_weight = pixel_weight
        self.region_weight = region_weight
        self.background_weight = background_weight
        self.region_criterion = region_criterion
        self.region_dropout = region_dropout
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

    @property
    def needs_regions(self) -> bool:
        """Whether a region branch, or the masking policy in the present mode, looks at region maps."""
        return self.region_branch is not None or getattr(self.masking, "needs_regions", False)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles networks and losses in training, in place of the whole module; see ``torch.compile``.

        Reading a batch, evaluation and pictures stay as they are: their shapes vary.
        """
        self.__dict__[_COMPILED] = torch.compile(self._run, *args, dynamic=False, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """A copy is not compiled: what is would go on computing with this module's weights."""
        return {k: v for k, v in super().__getstate__().items() if k != _COMPILED}

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
            ``region_probability`` (K, H, W), the visible patches as given and the hidden ones predicted;
            ``mask_probability`` (L,) of a masking policy that has learned one.
        """
        images = self.preprocess_image(batched_inputs)
        regions = self.preprocess_regions(batched_inputs) if self.needs_regions else None
        self._check_inputs(images, regions)
        seeds_B = self.mask_seeds(batched_inputs)
        plan = self._plan(seeds_B, images, regions)
        if self.training:
            if self.region_dropout and regions is not None:
                regions = drop_regions(regions, seeds_B)
            run = self.__dict__.get(_COMPILED, self._run)
            parts = run(images, regions, plan.ids_shuffle, plan.region_ids_shuffle, plan.gates)
            parts.update(plan.losses)
            self.scalars = plan.scalars
            weights = self._weights(plan)
            return {name: weights[name] * parts[name].mean() for name in weights if name in parts}
        outputs = self._outputs(images, regions, plan, per_image=True)
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
            The masking policy's losses, where it was asked and has any.
            ``mask`` bool (B, L), and ``region_mask`` where the region branch hides other patches.

        Raises:
            UserError: for images of another size, and regions that are absent or of another size.
        """
        self._check_inputs(images_BCHW, regions_BKHW)
        if ids_shuffle_BL is None:
            plan = self._plan(_random_seeds(len(images_BCHW)), images_BCHW, regions_BKHW)
        else:
            plan = MaskPlan(ids_shuffle_BL)
        return self._outputs(images_BCHW, regions_BKHW, plan, per_image)

    def _outputs(
        self,
        images_BCHW: Tensor,
        regions_BKHW: Tensor | None,
        plan: MaskPlan,
        per_image: bool,
    ) -> dict[str, Tensor]:
        """:meth:`forward_tensors` for a given plan."""
        parts = self._run(
            images_BCHW, regions_BKHW, plan.ids_shuffle, plan.region_ids_shuffle, plan.gates
        )
        L = plan.ids_shuffle.shape[1]
        split: _Split = parts["split"]
        out = {"mask": mask_from_order(plan.ids_shuffle, split.visible.shape[1])}
        out.update(plan.losses)
        if plan.probability is not None:
            out["mask_probability"] = plan.probability
        if "loss_pixel" in parts:
            out["loss_pixel"] = parts["loss_pixel"]
            out["pred_pixels"] = place_patches(parts["pred_pixels"], split.hidden, L)
        if "loss_region" in parts:
            region_split: _Split = parts["region_split"]
            out["loss_region"] = parts["loss_region"]
            out["pred_regions"] = place_patches(parts["pred_regions"], region_split.hidden, L)
            out["region_mask"] = mask_from_order(plan.region_order, region_split.visible.shape[1])
        if not per_image:
            out.update({k: v.mean() for k, v in out.items() if k.startswith("loss")})
        weights = self._weights(plan)
        out["loss"] = torch.stack([w * out[k] for k, w in weights.items() if k in out]).sum(dim=0)
        return out

    def _weights(self, plan: MaskPlan) -> dict[str, float]:
        """Of every loss; a masking policy weighs its own."""
        own = {"loss_pixel": self.pixel_weight, "loss_region": self.region_weight}
        return {**own, **dict.fromkeys(plan.losses, 1.0)}

    def _run(
        self,
        images_BCHW: Tensor,
        regions_BKHW: Tensor | None,
        ids_shuffle_BL: Tensor,
        region_ids_shuffle_BL: Tensor | None,
        gates_BL: Tensor | None = None,
    ) -> dict[str, Any]:
        """Patchify, mask, encode, decode, losses (B,); predictions on hidden patches only."""
        patches_BLX = patchify(images_BCHW, self.patch_size)
        split = _Split.of(ids_shuffle_BL, self.mask_ratio)
        gates_BV = None if gates_BL is None else gates_BL.gather(1, split.visible)
        tokens_BVD = self.backbone(patches_BLX, split.visible, gates_BV)
        out: dict[str, Any] = {"split": split}
        summary_BTD = None
        if self.region_branch is not None and regions_BKHW is not None:
            order = ids_shuffle_BL if region_ids_shuffle_BL is None else region_ids_shuffle_BL
            ratio = self.region_branch.mask_ratio
            region_split = _Split.of(order, self.mask_ratio if ratio is None else ratio)
            heard = (
                torch.zeros_like(tokens_BVD) if self.feeding == "region_to_pixel" else tokens_BVD
            )
            maps = patchify_regions(regions_BKHW, self.patch_size)
            logits, summary_BTD = self.region_branch(
                heard, split.visible, maps, region_split.visible, region_split.hidden
            )
            target = gather_region_patches(maps, region_split.hidden)
            out["region_split"] = region_split
            out["pred_regions"] = logits
            out["loss_region"] = region_loss(
                logits, target, self.background_weight, self.region_criterion
            )
        if self.pixel_decoder is not None:
            link = self.region_to_pixel
            context_BTD = None if link is None else link(summary_BTD)
            pred = self.pixel_decoder.decode(tokens_BVD, split.visible, split.hidden, context_BTD)
            target = gather_patches(patches_BLX, split.hidden)
            out["pred_pixels"] = pred
            out["loss_pixel"] = pixel_loss(pred, target, self.norm_pix_loss)
        return out

    def _check_inputs(self, images_BCHW: Tensor, regions_BKHW: Tensor | None) -> None:
        net = self.backbone.net
        if tuple(images_BCHW.shape[1:]) != (net.in_chans, *net.img_size):
            raise UserError(
                f"images of shape (C, H, W) = {tuple(images_BCHW.shape[1:])} given to a model of "
                f"{(net.in_chans, *net.img_size)}: set the mapper's crop size or model img_size"
            )
        if regions_BKHW is None:
            if self.region_branch is not None:
                raise UserError(
                    "this model has a region branch but was given no regions: give the mapper a region "
                    "source (dataloader.train.mapper.regions) or set model.region_branch=null for MAE"
                )
            return
        B, _, H, W = images_BCHW.shape
        if (regions_BKHW.shape[0], *regions_BKHW.shape[2:]) != (B, H, W):
            raise UserError(
                f"region maps of shape (B, K, H, W) = {tuple(regions_BKHW.shape)} given with images of "
                f"(B, C, H, W) = {tuple(images_BCHW.shape)}: they must be of the same crop"
            )

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
            raise UserError(f"a batch needs one num_regions, this one has {sorted(counts)}")
        k = torch.arange(counts.pop(), device=self.device)
        return (regions[:, k // 8] >> (k % 8).view(-1, 1, 1).to(torch.uint8)) & 1 > 0

    def mask_seeds(self, batched_inputs: list[dict[str, Any]]) -> Tensor:
        """The samples' ``mask_seed`` where they carry one, (B,) int64 on the CPU; see :meth:`forward`."""
        if "mask_seed" in batched_inputs[0]:
            return torch.tensor([int(x["mask_seed"]) for x in batched_inputs])
        if self.training:
            return _random_seeds(len(batched_inputs))
        return torch.zeros(len(batched_inputs), dtype=torch.int64)

    def _plan(self, seeds_B: Tensor, images_BCHW: Tensor, regions_BKHW: Tensor | None) -> MaskPlan:
        """Asks the masking policy."""
        net = self.backbone.net
        seeds_B = seeds_B.to(images_BCHW.device, non_blocking=True)
        visible = num_visible(net.num_patches, self.mask_ratio)
        request = MaskRequest(seeds_B, net.grid, visible, images_BCHW, regions_BKHW, self.progress)
        return plan_masks(self.masking, request)

    @torch.no_grad()
    def _pictures(
        self, images_BCHW: Tensor, regions_BKHW: Tensor | None, outputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """What a person looks at; see :meth:`forward`."""
        size = (self.backbone.net.grid, self.patch_size)
        pictures: dict[str, Tensor] = {}
        if "pred_pixels" in outputs:
            images = completed_images(
                images_BCHW, outputs["pred_pixels"], outputs["mask"], *size, self.norm_pix_loss
            )
            pictures["reconstruction"] = (images * self.pixel_std + self.pixel_mean).clamp(0, 255)
        if "pred_regions" in outputs and regions_BKHW is not None:
            pictures["region_probability"] = completed_regions(
                regions_BKHW, outputs["pred_regions"], outputs["region_mask"], *size
            )
        return pictures


def _random_seeds(number: int) -> Tensor:
    return torch.randint(0, 2**62, (number,))
