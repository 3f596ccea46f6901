"""R-MAE as a Detectron2 meta-architecture: masked autoencoding of pixels and regions.

Pipeline: patchify -> mask -> encode visible pixels -> decode regions -> decode pixels -> losses.
Both branches are optional: without a region branch this is MAE, without a pixel decoder RAE.

Letters: B images, C channels, H W pixels, L patches, V visible patches, N hidden patches, K regions,
P patch side, X values per patch. Masks: True = hidden.

Reference: Nguyen, Aggarwal, Li, Oswald, Kirillov, Snoek, Chen, "R-MAE: Regions Meet Masked Autoencoders",
ICLR 2024.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ..errors import UserError
from ..noise import hash_noise, num_visible
from .batch import Batch
from .build import parts_from_cfg
from .hub import HubModel
from .losses import REGION_CRITERIA, patch_statistics, pixel_loss, region_loss
from .masking.base import MaskingPolicy, MaskPlan, MaskRequest, RandomMasking, mask_from_order
from .patches import patchify, patchify_regions, place_patches, unpatchify
from .pixel_decoder import PixelDecoder
from .pixel_encoder import PixelEncoder, init_linear
from .region_branch import RegionBranch
from .region_variants import ChannelRegionBranch, SpatialRegionBranch

FEEDINGS = ("pixel_to_region", "region_to_pixel", "both")


class StepResult(NamedTuple):
    """Result of a training step on a `Batch`; tensors are 0-d.

    Losses are weighted: ``loss_pixel`` and ``loss_region`` of the branches present, and those of the masking
    policy, which may also report scalars.
    """

    losses: dict[str, Tensor]
    scalars: Mapping[str, Tensor]
    plan: MaskPlan


@META_ARCH_REGISTRY.register()
class RMAE(HubModel, nn.Module):
    """R-MAE, MAE or RAE pre-training.

    Args:
        backbone: the pixel encoder.
        pixel_decoder: None for RAE.
        region_branch: None for MAE; otherwise the length variant or one of `region_variants`.
        mask_ratio: beta_I, the fraction of pixel patches hidden. The region branch may have its own ratio,
            beta_R, and then keeps a different prefix of the same patch order. If that is a pair, beta_R is
            drawn between the two for each training step (see `visible_choices`), and evaluation uses beta_I.
        masking: see `rmae_d2.modeling.masking.base`; None for random masking.
        decode_ratio: fraction of the hidden patches of pixels and of regions that a training step predicts,
            drawn anew for each; losses and gradients stay unbiased. Below 1 it needs a pixel decoder with
            ``hidden_attention=False``. Not in the paper; evaluation predicts all.
        norm_pix_loss: predict pixels normalised per patch.
        pixel_weight, region_weight: weights of the two losses in their sum.
        background_weight: weight of background pixels in the region loss.
        level_weights: factors of the region loss by the level of a region (see ``level_probabilities`` of
            `RegionDatasetMapper`), the finest first; None for 1 each. Not in the paper; evaluation is
            unweighted.
        region_criterion: ``bce`` or ``l2``, see `region_loss`.
        feeding: which branch receives the other's output, one of `FEEDINGS` (R-MAE, table 1e).
            ``pixel_to_region``, the paper's: the region branch gets the pixel encoder's output.
            ``region_to_pixel``: it gets zeros, and the pixel decoder gets the encoded regions as additional
            tokens. ``both``: each gets the other's output.
        region_dropout: train on the first 1 to K regions of a batch, see `drop_regions`.
        pixel_mean, pixel_std: per-channel image statistics in the loader's range (0-255).
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
        decode_ratio: float = 1.0,
        norm_pix_loss: bool = True,
        pixel_weight: float = 1.0,
        region_weight: float = 1.0,
        background_weight: float = 1.0,
        level_weights: Sequence[float] | None = None,
        region_criterion: str = "bce",
        feeding: str = "pixel_to_region",
        region_dropout: bool = False,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
    ) -> None:
        super().__init__()
        if pixel_decoder is None and region_branch is None:
            raise UserError("neither a pixel decoder nor a region branch: nothing to learn")
        for name, part in (("pixel_decoder", pixel_decoder), ("region_branch", region_branch)):
            if part is not None and tuple(part.grid) != backbone.net.grid:
                raise UserError(
                    f"{name} has a grid of {tuple(part.grid)} patches, the backbone {backbone.net.grid} "
                    f"(img_size {backbone.net.img_size}, patch_size {backbone.net.patch_size})"
                )
        region_ratio = None if region_branch is None else region_branch.mask_ratio
        num_visible(backbone.net.num_patches, mask_ratio)  # fail now, not in the first step
        if isinstance(region_ratio, Sequence):
            visible_choices(backbone.net.num_patches, region_ratio)
        elif region_ratio is not None:
            num_visible(backbone.net.num_patches, region_ratio, ends=True)
        if not len(pixel_mean) == len(pixel_std) == backbone.net.in_chans:
            raise UserError(
                f"{len(pixel_mean)} values in pixel_mean and {len(pixel_std)} in pixel_std "
                f"for a backbone of {backbone.net.in_chans} channels"
            )
        if region_criterion not in REGION_CRITERIA:
            raise UserError(f"region_criterion={region_criterion!r}: one of {REGION_CRITERIA}")
        if feeding not in FEEDINGS:
            raise UserError(f"feeding={feeding!r}: one of {', '.join(FEEDINGS)}")
        _check_region_ratio(region_ratio, feeding)
        if level_weights is not None and min(level_weights, default=-1) < 0:
            raise UserError(f"level_weights={list(level_weights)}: one per level, 0 or more")
        if not 0 < decode_ratio <= 1:
            raise UserError(
                f"decode_ratio={decode_ratio}: above 0, and at most 1 to predict all patches"
            )
        if decode_ratio < 1 and pixel_decoder is not None and pixel_decoder.hidden_attention:
            raise UserError(
                f"decode_ratio={decode_ratio} with a pixel decoder in which patches attend to hidden ones: "
                "predictions would depend on which are left out. Set "
                "model.pixel_decoder.hidden_attention=false"
            )
        if region_dropout and isinstance(region_branch, ChannelRegionBranch):
            raise UserError(
                "region_dropout=True with the channel variant, whose K is fixed: use another variant"
            )
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.region_branch = region_branch
        self.feeding = feeding
        self.region_to_pixel: nn.Linear | None = None
        if feeding != "pixel_to_region":
            if region_branch is None or pixel_decoder is None:
                raise UserError(f"feeding={feeding!r} needs a region branch and a pixel decoder")
            width = pixel_decoder.embed.out_features
            self.region_to_pixel = nn.Linear(region_branch.summary_dim, width)
            init_linear(self.region_to_pixel)
        self.mask_ratio = mask_ratio
        self.masking = masking or RandomMasking()
        if window := backbone.net.window_size:
            num_visible(window**2, mask_ratio)
            if getattr(self.masking, "window_size", 0) != window:
                raise UserError(
                    f"an encoder with windows of {window} patches needs equally many visible ones in each: "
                    "set model.masking._target_=rmae_d2.modeling.WindowMasking "
                    f"model.masking.window_size={window}"
                )
        self.decode_ratio = decode_ratio
        self.norm_pix_loss = norm_pix_loss
        self.pixel_weight = pixel_weight
        self.region_weight = region_weight
        self.background_weight = background_weight
        self.level_weights = None if level_weights is None else tuple(map(float, level_weights))
        self.region_criterion = region_criterion
        self.region_dropout = region_dropout
        self.compile_options: tuple[tuple[str, Any], ...] | None = None
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Reads the arguments from a yacs config with ``MODEL.RMAE`` (`add_rmae_config`)."""
        return parts_from_cfg(cfg)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def patch_size(self) -> int:
        return self.backbone.net.patch_size

    @property
    def needs_regions(self) -> bool:
        """Whether the region branch, or the masking policy in its current mode, uses region maps."""
        return self.region_branch is not None or self.masking.needs_regions

    def compile(self, **options: Any) -> None:  # type: ignore[override]
        """Compiles networks and losses for training rather than the whole module; see ``torch.compile``.

        Batch handling, masking, evaluation and pictures stay uncompiled because their shapes vary.
        """
        self.compile_options = tuple(sorted(options.items()))

    def forward(
        self,
        batched_inputs: Batch | Sequence[dict[str, Any]],
        progress: float = 0.0,
        mask_ratio: float | None = None,
    ) -> Any:
        """Runs one training step, or, in evaluation, returns all predictions per image.

        Args:
            batched_inputs: a batch, or, following Detectron2, the dicts that `Batch.of` takes. A region
                branch requires regions. Without seeds, masks are drawn from torch's generator in training and
                from seed 0 in evaluation.
            progress: completed fraction of the training run, in [0, 1], for policies with a schedule.
            mask_ratio: overrides the model's own ratio.

        Returns:
            In training a `StepResult`, or only its losses if given Detectron2's dicts. In evaluation one dict
            per image: unweighted ``loss_pixel``, ``loss_region`` (0-d), ``mask`` bool (L,), ``pred_pixels``
            (L, P*P*C), ``pred_regions`` logits (K, L, P*P), and for display: ``reconstruction``, the image
            with its hidden patches predicted, float in the images' range (C, H, W), and
            ``region_probability`` (K, H, W), visible patches as given and hidden ones predicted;
            ``mask_probability`` (L,) if the masking policy has learned one.
        """
        batch = Batch.of(batched_inputs).to(self.device)
        regions = batch.region_maps() if self.needs_regions else None
        images = self.normalize(batch.images)
        self._check_inputs(images, regions)
        seeds = batch.mask_seeds
        if seeds is None:
            of_none = torch.zeros(len(batch), dtype=torch.int64)
            seeds = _random_seeds(len(batch)) if self.training else of_none
        visible = self.visible_patches(mask_ratio, seeds if self.training else None)
        plan = self._mask(seeds, images, regions, visible[0], progress)
        if not self.training:
            outputs = self._outputs(images, regions, plan, visible, per_image=True)
            pictures = self._pictures(images, regions, outputs)
            if "reconstruction" in pictures and not batch.images.is_floating_point():
                pictures["reconstruction"].clamp_(0, 255)
            outputs.update(pictures)
            outputs.pop("loss")
            return [{name: value[i] for name, value in outputs.items()} for i in range(len(batch))]
        if self.region_dropout and regions is not None:
            regions = drop_regions(regions, seeds)
        run = RMAE.reconstruct if self.compile_options is None else _compiled(self.compile_options)
        orders, predicted = plan[:2], None
        if self.decode_ratio < 1:
            orders, predicted = self._draw_predicted(plan, visible, seeds)
        levels = None if regions is None else self._weights_of_levels(batch, regions.shape[1])
        found = run(self, images, regions, orders, plan.gates, visible, predicted, levels)
        found = {**found, **plan.losses}
        weights = self._weights(plan)
        losses = {name: weights[name] * found[name].mean() for name in weights if name in found}
        if isinstance(batched_inputs, Batch):
            return StepResult(losses, plan.scalars, plan)
        return losses

    def forward_tensors(
        self,
        images_BCHW: Tensor,
        regions_BKHW: Tensor | None = None,
        ids_shuffle_BL: Tensor | None = None,
        per_image: bool = False,
    ) -> dict[str, Tensor]:
        """Runs the model on plain tensors.

        Args:
            images_BCHW: normalised float images of the backbone's size.
            regions_BKHW: region maps, float 0/1 or bool; required by a region branch.
            ids_shuffle_BL: int64 patch orders, the first V visible; None draws them with ``masking``.
            per_image: return the losses as (B,) instead of their means.

        Returns:
            ``loss`` (weighted sum), ``mask`` bool (B, L) and, for the branches present: ``loss_pixel``,
            ``loss_region``, ``pred_pixels`` (B, L, P*P*C), ``pred_regions`` logits (B, K, L, P*P), 0 where
            nothing is predicted, ``region_mask``; the masking policy's losses, if it was called and has any.
        """
        self._check_inputs(images_BCHW, regions_BKHW)
        visible = self.visible_patches()
        if ids_shuffle_BL is None:
            seeds = _random_seeds(len(images_BCHW))
            plan = self._mask(seeds, images_BCHW, regions_BKHW, visible[0])
        else:
            plan = MaskPlan(ids_shuffle_BL)
        return self._outputs(images_BCHW, regions_BKHW, plan, visible, per_image)

    def normalize(self, images_BCHW: Tensor) -> Tensor:
        """Normalises images from the loader's range (0-255 or a sensor's) to mean 0 and deviation 1, float32.

        NaN in float images marks missing data and is replaced by the mean.
        """
        images = (images_BCHW.float() - self.pixel_mean) / self.pixel_std
        return images.nan_to_num(0.0) if images_BCHW.is_floating_point() else images

    def _mask(
        self,
        seeds_B: Tensor,
        images_BCHW: Tensor,
        regions_BKHW: Tensor | None,
        num_visible: int,
        progress: float = 0.0,
    ) -> MaskPlan:
        """Returns the masking policy's plan, which leaves ``num_visible`` pixel patches visible."""
        seeds_B = seeds_B.to(images_BCHW.device, non_blocking=True)
        grid = self.backbone.net.grid
        request = MaskRequest(seeds_B, grid, num_visible, images_BCHW, regions_BKHW, progress)
        return self.masking(request)

    def visible_patches(
        self, mask_ratio: float | None = None, seeds_B: Tensor | None = None
    ) -> tuple[int, int]:
        """Numbers of visible pixel and region patches; a drawn beta_R depends on the step's seeds."""
        L = math.prod(self.backbone.net.grid)
        ratio = self.mask_ratio if mask_ratio is None else mask_ratio
        window = self.backbone.net.window_size**2 or L  # equally many of each window's patches
        visible = L // window * num_visible(window, ratio)
        own = None if self.region_branch is None else self.region_branch.mask_ratio
        if isinstance(own, Sequence):
            return visible, visible if seeds_B is None else drawn_visible(L, own, seeds_B)
        return visible, visible if own is None else num_visible(L, own, ends=True)

    def _draw_predicted(
        self, plan: MaskPlan, visible: tuple[int, int], seeds_B: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        """Orders in which those hidden patches come first that are predicted, and their numbers."""
        orders = (
            shuffle_hidden(plan.ids_shuffle, visible[0], seeds_B),
            shuffle_hidden(plan.region_order, visible[1], seeds_B),
        )
        return orders, self.num_predicted(visible)

    def _weights_of_levels(self, batch: Batch, num_regions: int) -> Tensor | None:
        """Factors of the first regions' losses, (B, num_regions)."""
        if self.level_weights is None:
            return None
        levels = batch.region_levels()
        if levels is None:
            raise UserError(
                f"level_weights={list(self.level_weights)}, but samples do not say of which level their "
                "regions are: set dataloader.train.mapper.level_probabilities"
            )
        most = max(max(fact["region_levels"]) for fact in batch.facts)
        if most >= len(self.level_weights):
            raise UserError(
                f"level_weights={list(self.level_weights)} for regions of {most + 1} levels: give one each"
            )
        return torch.tensor(self.level_weights, device=self.device)[levels[:, :num_regions]]

    def num_predicted(self, visible: tuple[int, int]) -> tuple[int, int]:
        """Numbers of hidden pixel and region patches that a training step predicts, at least one if any."""
        hidden = [self.backbone.net.num_patches - seen for seen in visible]
        pixels, regions = (min(n, max(1, round(n * self.decode_ratio))) for n in hidden)
        return pixels, regions

    def reconstruct(
        self,
        images_BCHW: Tensor,
        regions_BKHW: Tensor | None,
        orders_BL: tuple[Tensor, Tensor | None],
        gates_BL: Tensor | None,
        visible: tuple[int, int],
        predicted: tuple[int, int] | None = None,
        region_weights_BK: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Patchifies, masks, encodes and decodes; losses are (B,), predictions cover hidden patches only.

        ``orders_BL`` are the patch orders of pixels and regions (None: regions share the pixels' order), of
        which the first ``visible`` patches are seen and the next ``predicted`` are predicted (None: all).
        """
        out: dict[str, Tensor] = {}
        context_BTD = None
        patches_BLX = patchify(images_BCHW, self.backbone.net.patch_size)
        order, region_order = orders_BL
        last = order.shape[1] if predicted is None else visible[0] + predicted[0]
        visible_BV, hidden_BN = order[:, : visible[0]], order[:, visible[0] : last]
        gates_BV = None if gates_BL is None else gates_BL.gather(1, visible_BV)
        tokens_BVD = self.backbone(patches_BLX, visible_BV, gates_BV)
        if self.region_branch is not None and regions_BKHW is not None:
            maps = patchify_regions(regions_BKHW, self.backbone.net.patch_size)
            region_order = order if region_order is None else region_order
            last = order.shape[1] if predicted is None else visible[1] + predicted[1]
            shown, hidden = region_order[:, : visible[1]], region_order[:, visible[1] : last]
            pixels_unseen = self.feeding == "region_to_pixel"
            shared_BVD = torch.zeros_like(tokens_BVD) if pixels_unseen else tokens_BVD
            logits, context_BTD = self.region_branch(shared_BVD, visible_BV, maps, shown, hidden)
            _, K, _, X = maps.shape
            target = maps.gather(2, hidden[:, None, :, None].expand(-1, K, -1, X))
            weight, criterion = self.background_weight, self.region_criterion
            out["pred_regions"] = logits
            out["loss_region"] = region_loss(logits, target, weight, criterion, region_weights_BK)
        if self.pixel_decoder is not None:
            link = self.region_to_pixel
            context_BTD = None if link is None else link(context_BTD)
            pred = self.pixel_decoder.decode(tokens_BVD, visible_BV, hidden_BN, context_BTD)
            X = patches_BLX.shape[2]
            target = patches_BLX.gather(1, hidden_BN[:, :, None].expand(-1, -1, X))
            out["pred_pixels"] = pred
            out["loss_pixel"] = pixel_loss(pred, target, self.norm_pix_loss)
        return out

    def _outputs(
        self,
        images_BCHW: Tensor,
        regions_BKHW: Tensor | None,
        plan: MaskPlan,
        visible: tuple[int, int],
        per_image: bool,
    ) -> dict[str, Tensor]:
        """`forward_tensors` for a given plan."""
        found = self.reconstruct(images_BCHW, regions_BKHW, plan[:2], plan.gates, visible)
        order, region_order = plan.ids_shuffle, plan.region_order
        L = order.shape[1]
        out = {"mask": mask_from_order(order, visible[0]), **plan.losses}
        if plan.probability is not None:
            out["mask_probability"] = plan.probability
        if "loss_pixel" in found:
            out["loss_pixel"] = found["loss_pixel"]
            out["pred_pixels"] = place_patches(found["pred_pixels"], order[:, visible[0] :], L)
        if "loss_region" in found:
            out["loss_region"] = found["loss_region"]
            hidden = region_order[:, visible[1] :]
            out["pred_regions"] = place_patches(found["pred_regions"], hidden, L)
            out["region_mask"] = mask_from_order(region_order, visible[1])
        if not per_image:
            out.update({k: v.mean() for k, v in out.items() if k.startswith("loss")})
        weights = self._weights(plan)
        out["loss"] = torch.stack([w * out[k] for k, w in weights.items() if k in out]).sum(dim=0)
        return out

    def _weights(self, plan: MaskPlan) -> dict[str, float]:
        """Weights of all losses; masking policies weight theirs themselves."""
        own = {"loss_pixel": self.pixel_weight, "loss_region": self.region_weight}
        return {**own, **dict.fromkeys(plan.losses, 1.0)}

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

    @torch.no_grad()
    def _pictures(
        self, images_BCHW: Tensor, regions_BKHW: Tensor | None, outputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Images for display; see `forward`."""
        grid, P = self.backbone.net.grid, self.patch_size
        pictures: dict[str, Tensor] = {}
        if "pred_pixels" in outputs:
            patches, pred = patchify(images_BCHW, P), outputs["pred_pixels"].float()
            if self.norm_pix_loss:
                # Patch statistics are not predicted; for display only, they are taken from the image.
                mean, std = patch_statistics(patches)
                pred = pred * std + mean
            images = unpatchify(torch.where(outputs["mask"][:, :, None], pred, patches), grid, P)
            pictures["reconstruction"] = images * self.pixel_std + self.pixel_mean
        if "pred_regions" in outputs and regions_BKHW is not None:
            maps = patchify_regions(regions_BKHW, P).float()
            probability = outputs["pred_regions"].float().sigmoid()
            merged = torch.where(outputs["region_mask"][:, None, :, None], probability, maps)
            regions = unpatchify(merged.flatten(0, 1), grid, P)[:, 0]
            pictures["region_probability"] = regions.unflatten(0, merged.shape[:2])
        return pictures


@cache
def _compiled(options: tuple[tuple[str, Any], ...]) -> Callable[..., dict[str, Tensor]]:
    """Compiles the function, not a bound method, so that a copied model computes with its own weights."""
    return torch.compile(RMAE.reconstruct, dynamic=False, **dict(options))


def drop_regions(regions_BKHW: Tensor, seeds_B: Tensor) -> Tensor:
    """Keeps the first 1 to K regions of a batch, so that one model learns to handle any number of queries.

    Not in the paper. The number is a function of the batch's seeds. The loader shuffles regions, so the
    first ones are a random subset.
    """
    K = regions_BKHW.shape[1]
    kept = 1 + int(hash_noise(seeds_B.sum()[None], 1)) % K
    return regions_BKHW[:, :kept]


def shuffle_hidden(order_BL: Tensor, visible: int, seeds_B: Tensor) -> Tensor:
    """Shuffles the hidden patches of an order, those after the first ``visible``, uniformly at random."""
    hidden = order_BL[:, visible:]
    # Not the noise from which masking draws its order: given which patches are hidden, it is not random.
    noise = hash_noise(seeds_B.to(order_BL.device), order_BL.shape[1] + hidden.shape[1])
    shuffled = hidden.gather(1, noise[:, order_BL.shape[1] :].argsort(dim=1))
    return torch.cat([order_BL[:, :visible], shuffled], dim=1)


#: Number of values that a drawn beta_R can take: few enough for ``torch.compile`` to specialise on each.
_RATIOS = 8


def visible_choices(num_patches: int, ratios: Sequence[float]) -> list[int]:
    """Numbers of visible region patches for a beta_R drawn between two values: 8 evenly spaced ratios.

    Not in the paper. A model that has only ever seen a quarter of a region's patches can infer little from
    a single one, which is all that a click provides.

    Raises:
        UserError: if the two numbers do not increase, or one leaves no patch visible or none hidden.
    """
    if len(ratios) != 2 or not ratios[0] < ratios[1]:
        raise UserError(
            f"region_branch.mask_ratio={list(ratios)}: a number, or two of which the first is smaller"
        )
    low, high = ratios
    steps = (low + (high - low) * k / (_RATIOS - 1) for k in range(_RATIOS))
    return [num_visible(num_patches, ratio) for ratio in steps]


def drawn_visible(num_patches: int, ratios: Sequence[float], seeds_B: Tensor) -> int:
    """Picks one of `visible_choices` as a function of the batch's seeds."""
    choices = visible_choices(num_patches, ratios)
    # Not the number that drop_regions draws from these seeds.
    return choices[int(hash_noise(seeds_B.sum()[None], 2)[0, 1]) % len(choices)]


def _check_region_ratio(ratio: float | Sequence[float] | None, feeding: str) -> None:
    """Checks the extreme ratios: regions are then only input (0) or only target (1), so one feeding works."""
    if ratio == 0 and feeding != "region_to_pixel":
        raise UserError(
            f"region_branch.mask_ratio=0 with feeding={feeding!r}: no region patch is hidden, to predict it, "
            "so regions can only help to predict pixels. Set model.feeding=region_to_pixel or a ratio above 0"
        )
    if ratio == 1 and feeding != "pixel_to_region":
        raise UserError(
            f"region_branch.mask_ratio=1 with feeding={feeding!r}: no region patch is visible, so regions "
            "can tell the pixel decoder nothing. Set model.feeding=pixel_to_region or a ratio below 1"
        )


def _random_seeds(number: int) -> Tensor:
    return torch.randint(0, 2**62, (number,))
