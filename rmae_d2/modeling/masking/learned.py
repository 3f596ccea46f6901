"""AutoMAE as a masking policy: its generator is trained with the autoencoder, for both MAE and R-MAE.

One backward pass serves both players because each loss has its own parameters: ``loss_discriminator``
those of the discriminator, on samples without gradient; ``loss_generator`` those of the generator, through
a discriminator with constant weights. The reconstruction losses reach the generator through the
factors of visible tokens (``MaskPlan.gates``). The published code updates the discriminator first, on its
own sample, and then the rest; here each player sees the other as it was before the step.

Letters: B images, K regions, L patches, V visible patches, Gh Gw grid.
"""

import torch
from torch import Tensor

from ...errors import UserError
from ...noise import uniform_noise
from ..patches import patchify_regions
from .base import MaskingPolicy, MaskPlan, MaskRequest
from .generator import MaskDiscriminator, MaskGenerator, entropy, gumbel_softmax, rectangle_masks
from .rectangles import AREA, SIDE, Drawn, Range, check_drawn, check_range
from .regions import needed_regions


class LearnedMasking(MaskingPolicy):
    """Hides patches chosen by the generator with higher probability, but not with certainty.

    Each patch gets U(0, 1) noise, that of `RandomMasking`, plus ``bonus`` if it is among the
    ``num_marked`` highest values of the generator's sample m; the V lowest stay visible. The gradient passes
    straight through the choice: gates have the value 1, and dL/dm is bonus * <dL/dz', z> for the token z of a
    visible patch and its gated z', and 0 for a hidden one.

    Args:
        generator: proposes masks.
        discriminator: compares them with rectangles. None freezes the generator, as in the two-stage
            baseline: no losses, no gates.
        temperature: tau of Gumbel-softmax.
        bonus: the published beta (``mask_factor``).
        num_marked: number of patches that get the bonus; None for V, as in the published code.
        generator_weight: weight of the adversarial loss, the published lambda (``loss_g_factor``).
        rectangle_area, rectangle_side, rectangle_drawn: see `sample_rectangles`.
        rectangle_bonus: the published alpha.
        entropy_floor: fraction of the maximum entropy below which the generator is reported as collapsed.
        foreground: report how many object patches are hidden; the batch's region maps must be objects.
    """

    def __init__(
        self,
        generator: MaskGenerator,
        discriminator: MaskDiscriminator | None,
        temperature: float = 1.0,
        bonus: float = 0.5,
        num_marked: int | None = None,
        generator_weight: float = 0.2,
        rectangle_area: Range = AREA,
        rectangle_side: Range = SIDE,
        rectangle_bonus: float = 0.5,
        rectangle_drawn: Drawn = "columns",
        entropy_floor: float = 0.25,
        foreground: bool = False,
    ) -> None:
        super().__init__()
        check_range("rectangle_area", rectangle_area)
        check_range("rectangle_side", rectangle_side)
        check_drawn("rectangle_drawn", rectangle_drawn)
        if temperature <= 0:
            raise UserError(f"temperature={temperature} of LearnedMasking must be above 0")
        if discriminator is not None and discriminator.grid != tuple(generator.scorer.grid):
            raise UserError(
                f"the mask discriminator has a grid of {discriminator.grid} patches, the generator's scorer "
                f"{generator.scorer.grid}"
            )
        L = generator.scorer.net.num_patches
        if num_marked is not None and not 0 < num_marked <= L:
            raise UserError(f"num_marked={num_marked} must be from 1 to {L}, the number of patches")
        self.generator = generator
        if discriminator is None:
            generator.requires_grad_(False)
        self.discriminator = discriminator
        self.temperature = temperature
        self.bonus = bonus
        self.num_marked = num_marked
        self.generator_weight = generator_weight
        self.rectangle_area = rectangle_area
        self.rectangle_side = rectangle_side
        self.rectangle_bonus = rectangle_bonus
        self.rectangle_drawn = rectangle_drawn
        self.entropy_floor = entropy_floor
        self.foreground = foreground

    @property
    def needs_regions(self) -> bool:  # type: ignore[override]
        """For the training report only; evaluation runs on images without labels."""
        return self.foreground and self.training

    def forward(self, request: MaskRequest) -> MaskPlan:
        """Plans the masks, with losses and scalars in training only."""
        if request.grid != tuple(self.generator.scorer.grid):
            raise UserError(
                f"the model has a grid of {request.grid} patches, the mask generator's scorer "
                f"{self.generator.scorer.grid}: give its net the model's img_size and patch_size"
            )
        log_probability = self.generator(request.images)
        sample = gumbel_softmax(log_probability, request.seeds, self.temperature)
        ids_shuffle = self._order(sample.detach(), request)
        probability = log_probability.detach().exp()
        if not self.training:
            return MaskPlan(ids_shuffle, probability=probability)
        scalars = {"mask_entropy": entropy(log_probability.detach()).mean()}
        if self.foreground:
            scalars.update(foreground_shares(request, ids_shuffle, probability))
        if self.discriminator is None:
            return MaskPlan(ids_shuffle, probability=probability, scalars=scalars)
        losses, accuracy = self._play(self.discriminator, sample, request)
        return MaskPlan(
            ids_shuffle,
            losses=losses,
            gates=1 + self.bonus * (sample - sample.detach()),
            probability=probability,
            scalars={**scalars, "discriminator_accuracy": accuracy},
        )

    def _order(self, sample_BL: Tensor, request: MaskRequest) -> Tensor:
        """Orders patches from the first to show to the first to hide."""
        marked = sample_BL.topk(self.num_marked or request.visible, dim=1).indices
        noise = uniform_noise(request.seeds, request.num_patches)
        noise.scatter_add_(1, marked, torch.full_like(noise, self.bonus))
        return noise.argsort(dim=1, stable=True)

    def _play(
        self, discriminator: MaskDiscriminator, sample_BL: Tensor, request: MaskRequest
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Computes both players' losses, (B,), and the discriminator's accuracy."""
        rectangles = rectangle_masks(
            request.seeds,
            request.grid,
            self.rectangle_area,
            self.rectangle_side,
            self.rectangle_bonus,
            self.rectangle_drawn,
        )
        real, made = discriminator(torch.cat([rectangles, sample_BL.detach()])).chunk(2)
        verdict = discriminator(sample_BL, frozen=True)
        losses = {
            "loss_generator": self.generator_weight * (verdict - 1).square().mean(dim=1),
            "loss_discriminator": ((real - 1).square() + made.square()).mean(dim=1),
        }
        accuracy = ((real > 0.5).float().mean() + (made <= 0.5).float().mean()) / 2
        return losses, accuracy


def foreground_shares(
    request: MaskRequest, ids_shuffle_BL: Tensor, probability_BL: Tensor
) -> dict[str, Tensor]:
    """Measures how much of the hidden part is foreground, i.e. patches at least half covered by regions.

    Returns:
        0-d shares: ``hidden_foreground`` of the hidden patches, ``chosen_foreground`` of the generator's
        probability, and ``all_foreground`` of all patches, which is what random masking gives.
    """
    source = "objects (dataloader.train.mapper.regions, InstanceSource) or set model.masking.foreground=false"
    regions = needed_regions(request, "foreground=True of LearnedMasking", source)
    inside_BL = foreground_patches(regions, request.grid).float()
    hidden_BN = ids_shuffle_BL[:, request.visible :]
    return {
        "hidden_foreground": inside_BL.gather(1, hidden_BN).mean(),
        "chosen_foreground": (probability_BL * inside_BL).sum(dim=1).mean(),
        "all_foreground": inside_BL.mean(),
    }


def foreground_patches(regions_BKHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """Marks patches at least half covered by the union of all regions: bool (B, L)."""
    patch_size = regions_BKHW.shape[2] // grid[0]
    covered_BLX = (patchify_regions(regions_BKHW, patch_size) > 0).any(dim=1)
    return covered_BLX.float().mean(dim=2) >= 0.5
