"""Hiera's four stages as the feature pyramid of a detector: no simple FPN has to make scales out of one."""

from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import Tensor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from ..hiera import MASK_UNIT, HieraStages


class HieraPyramid(Backbone):
    """FPN (Lin et al. 2017; torchvision's) over the stages of Hiera, which is ``net``, as in `PixelEncoder`.

    Outputs p2 to p6, of strides 4 to 64. Images are padded to the network's size.

    Args:
        net: Hiera of the size of the images in training.
        out_channels: of all outputs.
    """

    def __init__(self, net: HieraStages, out_channels: int = 256) -> None:
        super().__init__()
        self.net = net
        self.fpn = FeaturePyramidNetwork(net.widths, out_channels, LastLevelMaxPool())
        self.out_channels = out_channels
        self._names = [f"p{level}" for level in range(2, 7)]

    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Computes features of normalised images of the network's size: p2 ... p6, (B, C, H, W) each."""
        found = self.fpn(dict(zip(self._names, self.net.stages(images_BCHW), strict=False)))
        return dict(zip(self._names, found.values(), strict=True))

    def output_shape(self) -> dict[str, Any]:
        """See Detectron2's `Backbone`."""
        return {
            name: ShapeSpec(channels=self.out_channels, stride=2**level)
            for level, name in enumerate(self._names, 2)
        }

    @property
    def size_divisibility(self) -> int:
        """Divisor required of image sides, pixels."""
        return MASK_UNIT

    @property
    def padding_constraints(self) -> dict[str, int]:
        height, width = self.net.img_size
        return {"size_divisibility": MASK_UNIT, "square_size": max(height, width)}
