"""AutoMAE's networks: learning which patches to hide, against the autoencoder and a prior of rectangles.

    image -> frozen ViT -> [CLS] attention of its last block, one map per head
          -> two convolutions, log-softmax -> log-probability of each patch
          -> Gumbel-softmax -> m, positive, sums to 1 -> discriminator: from the generator or a rectangle?

The policy that trains them and hides patches according to m is in `learned`.

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

# "gumbel" and "noise" in ASCII: switch an image's seed to further noise streams.
_GUMBEL_STREAM = 0x67756D62656C
_NOISE_STREAM = 0x6E6F697365


class FrozenViT:
    """A ViT used only for its attention, never trained: always in evaluation mode, without gradients.

    Not a submodule of its holder, so it is in no state dict, optimizer, average or gradient bucket.

    Args:
        net: ViT with its weights; see `rmae_d2.checkpoint.load_scorer`.
        block: block whose attention is used; the last in the paper. Negative numbers count from the end.

    Attributes:
        fingerprint: hash of the weights and the block, in [0, 2**63); 0 if the weights have no values.
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
        """Computes the cls token's attention in the block, with nothing hidden.

        Args:
            images_BCHW: normalised.

        Returns:
            float32 (B, heads, L); a head sums to less than 1 because the token also attends to itself.

        Raises:
            UserError: if the image size differs from the net's.
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
    """A module that uses a frozen ViT; checkpoints store its fingerprint instead of its weights."""

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
        """Rejects weights trained with another scorer; the last argument is the list of errors."""
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
    """Maps an image to the log-probability of each patch.

    Args:
        hidden_dim: channels between the two convolutions; 6 in the published code, for 12 heads.
        relative_attention: scale attention to multiples of 1/L, the value of uniform attention, before the
            convolutions. The published code leaves it unscaled, so small that a short run hardly
            learns.
    """

    def __init__(
        self, scorer: FrozenViT, hidden_dim: int = 6, relative_attention: bool = False
    ) -> None:
        super().__init__(scorer)
        self.scale = scorer.net.num_patches if relative_attention else 1
        self.conv1 = nn.Conv2d(scorer.vit.num_heads, hidden_dim, kernel_size=3, padding=1)
        # No bias: log-softmax cancels it, and its gradient would be rounding error alone.
        self.conv2 = nn.Conv2d(hidden_dim, 1, kernel_size=3, padding=1, bias=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Maps normalised images to float32 log-probabilities (B, L), regardless of autocast."""
        maps = self.scale * self.scorer.attention(images_BCHW).unflatten(2, self.scorer.grid)
        with _in_float32(maps):
            maps = self.conv2(F.relu(self.conv1(maps)))
            return maps.flatten(1).log_softmax(dim=1)


class MaskDiscriminator(nn.Module):
    """Tells the generator's maps from those of rectangles, by least squares (LSGAN): 1 for a rectangle.

    Three convolutions with spectral norm: 4x4 stride 2 twice, then 3x3; on a 14 x 14 grid 14 -> 7 -> 3 -> 1.
    If several values remain, each is a verdict; on a small grid, the last convolution shrinks.

    Args:
        grid: (Gh, Gw), at least 4 x 4.
        dims: output channels of the first and the second convolution.
        bias: whether the convolutions have biases. The published ones have none; rmae_d2 0.1 had them. Masks
            that sum to 1 are so small that biases alone then determine the verdicts, and the generator gets
            no signal.
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
        """Computes verdicts, float32 (B, N), on masks that sum to 1; ``frozen``: no weight gradients."""
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
        """Names the option to set for weights of rmae_d2 0.1; the last argument is the list of errors."""
        if self.convs[0].bias is None and f"{prefix}convs.0.bias" in state_dict:
            args[-1].append(
                f"{prefix[:-1] or type(self).__name__} was trained with biases, as rmae_d2 0.1 had it: set "
                "model.masking.discriminator.bias=true to go on with it"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def spectral_norm(weight: Tensor, squarings: int = 12) -> Tensor:
    """Largest singular value of a convolution's weight as a matrix, output channels by the rest; 0-d.

    Raises W W' to the 2^12th power by squaring, which leaves only its first eigenvector. Unlike one power
    iteration per call from the last vector (Miyato et al., 2018), this is stateless; unlike a decomposition,
    it does not wait for the device. The gradient is that of u' W v with u and v fixed.
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
    """Draws a soft sample of a patch: positive, sums to 1, (B, L); its noise is a function of the seeds."""
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
    """Real samples for the discriminator: softmax over U(0, 1) noise plus a bonus inside a rectangle.

    ``area``, ``side`` and ``drawn``: see `sample_rectangles`; ``bonus`` is the published alpha. The
    result is float32 (B, L), positive and sums to 1.
    """
    inside_BL = sample_rectangles(seeds_B, grid, area, side, drawn=drawn).flatten(1)
    noise_BL = uniform_noise(seeds_B ^ _NOISE_STREAM, inside_BL.shape[1])
    return (noise_BL + bonus * inside_BL).softmax(dim=1).float()


def entropy(log_probability_BL: Tensor) -> Tensor:
    """Entropy of each distribution relative to the maximum: (B,), 1 for uniform, 0 for one certain patch."""
    nats = -(log_probability_BL.exp() * log_probability_BL).sum(dim=1)
    return nats / math.log(log_probability_BL.shape[1])


def has_values(net: nn.Module) -> bool:
    """Whether the weights have values, i.e. are neither on the meta device nor fake."""
    return not any(p.is_meta or isinstance(p, FakeTensor) for p in net.parameters())


def _in_float32(tensor: Tensor) -> AbstractContextManager[Any]:
    """Disables autocast if the tensor's device supports it."""
    kind = tensor.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def _fingerprint(net: nn.Module, block: int) -> int:
    """Computes a number that differs for other weights or another block; 0 if the weights have no values.

    Position embeddings are excluded: resized to a grid, they differ by rounding between machines.
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
