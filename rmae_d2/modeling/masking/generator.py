"""AutoMAE's networks: which patches to hide, learned against the autoencoder and a prior of rectangles.

    image -> frozen ViT -> [CLS] attention of its last block, a map per head
          -> two convolutions, log-softmax -> log-probability of each patch
          -> Gumbel-softmax -> m, positive and of sum 1 -> discriminator: a generator's, or a rectangle's?

The policy that trains them, and hides patches by m, is in `learned`.

Letters: B images, L patches, D width, Gh Gw grid.

Reference: Chen, Zhang, Wang, Yang, "Improving Masked Autoencoders by Learning Where to Mask", PRCV 2023.
"""

import hashlib
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ...errors import UserError
from ...noise import uniform_noise
from ..attention_maps import AttentionViT
from ..pixel_encoder import MaskedViT
from .rectangles import AREA, SIDE, Drawn, Range, sample_rectangles

# "gumbel" and "noise" in ASCII: take an image's seed to further streams of noise.
_GUMBEL_STREAM = 0x67756D62656C
_NOISE_STREAM = 0x6E6F697365


class FrozenViT:
    """A ViT whose attention is read and which is never trained: always in evaluation mode, without gradients.

    It is not a module of who holds it, so that it is in no state dict, optimizer, average or gradient bucket.

    Args:
        net: with its weights; see `rmae_d2.checkpoint.load_scorer`.
        block: whose attention it gives; the last in the paper. Negative numbers count from the last.

    Attributes:
        fingerprint: of the weights and the block, in [0, 2**63); 0 where they have no values.
    """

    def __init__(self, net: MaskedViT, block: int = -1) -> None:
        depth = len(net.blocks)
        if not -depth <= block < depth:
            raise UserError(
                f"block={block} of a frozen scorer with {depth} blocks: give {-depth} to {depth - 1}"
            )
        self.vit = AttentionViT(net)
        self.net = net
        self.grid = net.grid
        self.block = block % depth
        self.fingerprint = _fingerprint(net, self.block)

    def attention(self, images_BCHW: Tensor) -> Tensor:
        """What the cls token attends to in the block, nothing hidden.

        Args:
            images_BCHW: normalised.

        Returns:
            float32 (B, heads, L); a head's values sum to less than 1, for the token attends to itself too.

        Raises:
            UserError: for images of another size than the net's.
        """
        size = tuple(images_BCHW.shape[2:])
        if size != self.net.img_size:
            raise UserError(
                f"images of {size} pixels given to a frozen scorer of {self.net.img_size}: "
                "set img_size of its net to the model's"
            )
        cls = torch.zeros(1, dtype=torch.int64, device=images_BCHW.device)
        return self.vit.attention(images_BCHW, self.block, cls)[:, :, 0, 1:]


class UsesScorer(nn.Module):
    """A module that looks through a frozen ViT; checkpoints hold its fingerprint in place of its weights."""

    scorer: FrozenViT
    scorer_fingerprint: Tensor

    def __init__(self, scorer: FrozenViT) -> None:
        super().__init__()
        self.scorer = scorer
        self.register_buffer("scorer_fingerprint", torch.tensor(scorer.fingerprint))

    def _apply(self, fn: Any, recurse: bool = True) -> "UsesScorer":
        super()._apply(fn, recurse)
        self.scorer.net._apply(fn)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Refuses weights that were trained with another scorer; the last argument is the list of errors."""
        key = f"{prefix}scorer_fingerprint"
        own, given = self.scorer.fingerprint, state_dict.get(key)
        if own and given is not None and not given.is_meta and int(given) != own:
            args[-1].append(
                f"{prefix[:-1] or type(self).__name__} was trained with the attention of another frozen "
                f"scorer (fingerprint {int(given):016x}, this one {own:016x}): give its scorer the same "
                "weight file, or begin with the run's backbone_final.pth, which has no generator"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


class MaskGenerator(UsesScorer):
    """From an image to the log-probability of each patch.

    Args:
        hidden_dim: channels between the two convolutions; 6 in the published code, for 12 heads.
        relative_attention: give the convolutions attention as a multiple of 1/L, what each patch gets
            where all get the same. The published code gives it as it is: so small that a short run hardly
            learns.
    """

    def __init__(
        self, scorer: FrozenViT, hidden_dim: int = 6, relative_attention: bool = False
    ) -> None:
        super().__init__(scorer)
        self.scale = scorer.net.num_patches if relative_attention else 1
        self.conv1 = nn.Conv2d(scorer.vit.num_heads, hidden_dim, kernel_size=3, padding=1)
        # No bias: log-softmax takes it out again, and its gradient would be rounding alone.
        self.conv2 = nn.Conv2d(hidden_dim, 1, kernel_size=3, padding=1, bias=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Normalised images -> float32 log-probabilities (B, L), whatever autocast says."""
        maps = self.scale * self.scorer.attention(images_BCHW).unflatten(2, self.scorer.grid)
        with _in_float32(maps):
            maps = self.conv2(F.relu(self.conv1(maps)))
            return maps.flatten(1).log_softmax(dim=1)


class MaskDiscriminator(nn.Module):
    """Tells maps of a generator from those of rectangles, by least squares (LSGAN): 1 for a rectangle.

    Three convolutions with spectral norm: 4x4 stride 2 twice, then 3x3; on a 14 x 14 grid 14 -> 7 -> 3 -> 1.
    Where that leaves several values, each is a verdict; where the grid is small, the last one shrinks.

    Args:
        grid: (Gh, Gw), 4 x 4 at least.
        dims: channels behind the first and the second.
        bias: whether the convolutions have biases. The published ones have none; rmae_d2 0.1 had them. Masks
            of sum 1 are so small that biases alone then make the verdicts, and the generator hears nothing.
    """

    def __init__(
        self, grid: tuple[int, int], dims: tuple[int, int] = (16, 32), bias: bool = False
    ) -> None:
        super().__init__()
        if min(grid) < 4:
            raise UserError(
                f"the mask discriminator needs a grid of 4x4 patches or more, not {grid}"
            )
        self.grid = tuple(grid)
        last = (min(3, grid[0] // 4), min(3, grid[1] // 4))
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(1, dims[0], kernel_size=4, stride=2, padding=1, bias=bias),
                nn.Conv2d(dims[0], dims[1], kernel_size=4, stride=2, padding=1, bias=bias),
                nn.Conv2d(dims[1], 1, kernel_size=last, bias=bias),
            ]
        )

    def forward(self, masks_BL: Tensor, frozen: bool = False) -> Tensor:
        """Verdicts, float32 (B, N), on masks of sum 1; ``frozen``: no gradient to the weights."""
        with _in_float32(masks_BL):
            x = masks_BL.float().unflatten(1, self.grid)[:, None]
            for i, conv in enumerate(self.convs):
                assert isinstance(conv, nn.Conv2d)
                weight, bias = conv.weight, conv.bias
                if frozen:
                    weight, bias = weight.detach(), None if bias is None else bias.detach()
                weight = weight / spectral_norm(weight).clamp_min(1e-12)
                x = F.conv2d(x, weight, bias, conv.stride, conv.padding)
                if i < len(self.convs) - 1:
                    x = F.leaky_relu(x, 0.2)
            return x.flatten(1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Names the option where the weights are of rmae_d2 0.1; the last argument is the list of errors."""
        if self.convs[0].bias is None and f"{prefix}convs.0.bias" in state_dict:
            args[-1].append(
                f"{prefix[:-1] or type(self).__name__} was trained with biases, as rmae_d2 0.1 had it: set "
                "model.masking.discriminator.bias=true to go on with it"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def spectral_norm(weight: Tensor, squarings: int = 12) -> Tensor:
    """The largest singular value of a convolution's weight as a matrix, output channels by the rest; 0-d.

    Of W W' the 2^12th power is taken, by squaring, so that of its eigenvectors the first is left. Unlike one
    step a call from the last vector (Miyato et al., 2018) this has no state; unlike a decomposition it does
    not wait for the device. The gradient is that of u' W v with u and v fixed.
    """
    matrix = weight.flatten(1)
    with torch.no_grad():
        power = matrix @ matrix.T
        for _ in range(squarings):
            power = power / power.norm().clamp_min(1e-30)
            power = power @ power
        largest = power.diagonal().argmax()[None]
        left = F.normalize(power.index_select(1, largest)[:, 0], dim=0)
        right = F.normalize(matrix.T @ left, dim=0)
    return left @ (matrix @ right)


def gumbel_softmax(log_probability_BL: Tensor, seeds_B: Tensor, temperature: float = 1.0) -> Tensor:
    """A soft sample of a patch: positive, of sum 1, (B, L); its noise is a function of the seeds."""
    noise = uniform_noise(seeds_B ^ _GUMBEL_STREAM, log_probability_BL.shape[1])
    gumbel = -torch.log(-torch.log(noise))  # in float64, and never infinite
    return ((log_probability_BL + gumbel.to(log_probability_BL.dtype)) / temperature).softmax(dim=1)


def rectangle_masks(
    seeds_B: Tensor,
    grid: tuple[int, int],
    area: Range = AREA,
    side: Range = SIDE,
    bonus: float = 0.5,
    drawn: Drawn = "columns",
) -> Tensor:
    """What the discriminator takes for real: softmax over U(0, 1) noise and a bonus inside a rectangle.

    ``area``, ``side`` and ``drawn``: see `sample_rectangles`; ``bonus`` is the published alpha. The
    result is float32 (B, L), positive, of sum 1.
    """
    inside_BL = sample_rectangles(seeds_B, grid, area, side, drawn=drawn).flatten(1)
    noise_BL = uniform_noise(seeds_B ^ _NOISE_STREAM, inside_BL.shape[1])
    return (noise_BL + bonus * inside_BL).softmax(dim=1).float()


def entropy(log_probability_BL: Tensor) -> Tensor:
    """Entropy of each distribution, of the largest possible: (B,), 1 for uniform, 0 for one sure patch."""
    nats = -(log_probability_BL.exp() * log_probability_BL).sum(dim=1)
    return nats / math.log(log_probability_BL.shape[1])


def has_values(net: nn.Module) -> bool:
    """Whether the weights are there: not on the meta device, not fake."""
    return not any(p.is_meta or isinstance(p, FakeTensor) for p in net.parameters())


def _in_float32(tensor: Tensor) -> AbstractContextManager[Any]:
    """Autocast switched off, where the tensor's device has one."""
    kind = tensor.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def _fingerprint(net: nn.Module, block: int) -> int:
    """A number that differs for other weights and another block; 0 where they have no values.

    Positions do not count: resized to a grid, they differ by rounding from machine to machine.
    """
    if not has_values(net):
        return 0
    digest = hashlib.sha256(str(block).encode())
    for name, value in net.state_dict().items():
        if name == "pos_embed":
            continue
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().data)
    return int.from_bytes(digest.digest()[:8], "big") >> 1
