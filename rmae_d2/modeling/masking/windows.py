"""Random masking that leaves the same number of patches visible in each window of an encoder with windows."""

import torch

from ...errors import UserError
from ...noise import hash_noise
from ..patches import window_of_patches
from .base import MaskingPolicy, MaskPlan, MaskRequest


class WindowMasking(MaskingPolicy):
    """Uniformly random masking within each window, with equally many visible patches in all of them.

    So the visible patches of all windows form one batch: window attention needs no padding and no masks.

    Args:
        window_size: side of the windows in patches, that of `MaskedViT`.
    """

    def __init__(self, window_size: int) -> None:
        super().__init__()
        self.window_size = window_size

    def forward(self, request: MaskRequest) -> MaskPlan:
        """See `MaskingPolicy`.

        Raises:
            UserError: windows do not divide the grid, or cannot all have equally many visible patches.
        """
        window = window_of_patches(request.grid, self.window_size).to(request.seeds.device)
        num_windows = request.num_patches // self.window_size**2
        if request.visible % num_windows:
            raise UserError(
                f"{request.visible} visible patches in {num_windows} windows: not equally many in each"
            )
        noise = hash_noise(request.seeds, request.num_patches)
        # Patches by window, in each by noise: their place there is their rank among the window's patches.
        by_window = noise.argsort(dim=1)
        by_window = by_window.gather(1, window[by_window].argsort(dim=1, stable=True))
        ranks = torch.arange(request.num_patches, device=noise.device) % self.window_size**2
        rank = torch.empty_like(by_window).scatter(1, by_window, ranks.expand_as(by_window))
        return MaskPlan((rank * num_windows + window).argsort(dim=1))
