"""UPerNet on a plain ViT: four taps at four strides, pyramid pooling, lateral fusion (UPerNet, section 3.2).

Letters: B images, D width of the backbone, X width of the head, C classes, H W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY, Backbone
from detectron2.utils import comm
from torch import Tensor, nn

from ... import compat
from ...errors import UserError

Norm = str | Callable[[int], nn.Module]


class TapPyramid(Backbone):
    """Resamples four outputs of a plain ViT, all at its patch stride, to a CNN-like pyramid p2 to p5.

    As in BEiT's and MAE's transfer to ADE20K: p2 is upsampled 4x by two transposed
    convolutions with a norm and GELU between them, p3 2x by one, p4 is unchanged, p5 is max-pooled.

    Args:
        net: a `ViT`.
        in_features: names of four of its outputs, in order of depth.
        norm: between the two convolutions of p2; a name known to Detectron2's ``get_norm``.
    """

    def __init__(self, net: Backbone, in_features: Sequence[str], norm: Norm = "SyncBN") -> None:
        super().__init__()
        shapes = net.output_shape()
        if len(in_features) != 4 or any(name not in shapes for name in in_features):
            raise UserError(
                f"in_features={list(in_features)} must be four outputs of the ViT, which has "
                f"{', '.join(shapes)}: set its out_indices"
            )
        self.net = net
        self.in_features = tuple(in_features)
        channels, strides = zip(
            *((shapes[x].channels, shapes[x].stride) for x in in_features), strict=True
        )
        self.resample = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(channels[0], channels[0], 2, stride=2),
                    get_norm(norm, channels[0]),
                    nn.GELU(),
                    nn.ConvTranspose2d(channels[0], channels[0], 2, stride=2),
                ),
                nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )
        self._out_features = ["p2", "p3", "p4", "p5"]
        self._out_feature_channels = dict(zip(self._out_features, channels, strict=True))
        resampled = (strides[0] // 4, strides[1] // 2, strides[2], strides[3] * 2)
        self._out_feature_strides = dict(zip(self._out_features, resampled, strict=True))

    @property
    def size_divisibility(self) -> int:
        """Divisor required of image sides: the stride of p5, pixels."""
        return self._out_feature_strides["p5"]

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self.size_divisibility}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps normalised images (B, 3, H, W) to p2 to p5, each (B, D, H / stride, W / stride)."""
        taps = self.net(images)
        levels = zip(self._out_features, self.in_features, self.resample, strict=True)
        return {out: resample(taps[tap]) for out, tap, resample in levels}


class PyramidPooling(nn.Module):
    """Adds context of the whole map and its parts to every position (PSPNet, section 3.2).

    The map is averaged over n x n grids, with one branch of width X for each n of ``grids``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, grids: Sequence[int], norm: Norm
    ) -> None:
        super().__init__()
        self.grids = tuple(grids)
        self.branches = nn.ModuleList(conv(in_channels, out_channels, 1, norm) for _ in self.grids)
        self.fuse = conv(in_channels + len(self.grids) * out_channels, out_channels, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, X, H, W); refuses to train batch norm on one value per channel."""
        if self.training and 1 in self.grids and len(x) == 1:
            self._check_norm()
        average = averaged if compat.is_exporting() else F.adaptive_avg_pool2d
        pooled = [
            resized(branch(average(x, grid)), x.shape[-2:])
            for grid, branch in zip(self.grids, self.branches, strict=True)
        ]
        return self.fuse(torch.cat([x, *pooled], dim=1))

    def _check_norm(self) -> None:
        norm = self.branches[0].norm
        shared = isinstance(norm, nn.SyncBatchNorm) and comm.get_world_size() > 1
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and not shared:
            raise UserError(
                "UPerNet's batch norms cannot learn from one image at a time: give each process two or "
                "more (dataloader.train.total_batch_size, train.grad_accum), or take another norm "
                "(model.sem_seg_head.norm=LN model.backbone.norm=LN)"
            )


@SEM_SEG_HEADS_REGISTRY.register()
class UPerNetHead(nn.Module):
    """Pyramid pooling on the coarsest map, coarse-to-fine fusion, then fusion of all levels.

    The interface is that of Detectron2's ``SemSegFPNHead``.

    Args:
        input_shape: maps level names to channels and stride.
        num_classes: C.
        channels: X, width of all fused maps; the ADE20K recipes use the backbone's.
        pool_grids: see `PyramidPooling`.
        dropout: fraction of channels dropped before the classifiers.
        norm: norm of all convolutions; see Detectron2's ``get_norm``. "SyncBN" is batch norm in one process.
        loss_weight: weight of the main loss.
        aux_in_feature: input level of the auxiliary head; None for no such head.
        aux_channels: width of the auxiliary head.
        aux_loss_weight: weight of its loss.
        ignore_value: label of pixels to ignore.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        num_classes: int,
        channels: int = 512,
        pool_grids: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
        norm: Norm = "SyncBN",
        loss_weight: float = 1.0,
        aux_in_feature: str | None = None,
        aux_channels: int = 256,
        aux_loss_weight: float = 0.4,
        ignore_value: int = 255,
    ) -> None:
        super().__init__()
        levels = sorted(input_shape.items(), key=lambda item: item[1].stride)
        if len(levels) < 2:
            raise UserError(f"UPerNet fuses two levels or more, input_shape has {len(levels)}")
        if aux_in_feature is not None and aux_in_feature not in input_shape:
            raise UserError(
                f"aux_in_feature={aux_in_feature!r} is none of {', '.join(input_shape)}"
            )
        self.in_features = [name for name, _ in levels]
        self.stride = levels[0][1].stride
        self.num_classes = num_classes
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight
        self.aux_loss_weight = aux_loss_weight
        self.aux_in_feature = aux_in_feature
        widths = [shape.channels for _, shape in levels]
        self.lateral = nn.ModuleList(conv(width, channels, 1, norm) for width in widths[:-1])
        self.pool = PyramidPooling(widths[-1], channels, pool_grids, norm)
        self.smooth = nn.ModuleList(conv(channels, channels, 3, norm) for _ in widths[:-1])
        self.fuse = conv(len(widths) * channels, channels, 3, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.predictor = classifier(channels, num_classes)
        self.aux: nn.Sequential | None = None
        if aux_in_feature is not None:  # PSPNet, section 3.3
            self.aux = nn.Sequential(
                conv(input_shape[aux_in_feature].channels, aux_channels, 3, norm),
                nn.Dropout2d(dropout),
                classifier(aux_channels, num_classes),
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Reads the arguments from ``cfg.MODEL.SEM_SEG_HEAD``, with Detectron2's keys; no auxiliary head."""
        node = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": {k: v for k, v in input_shape.items() if k in node.IN_FEATURES},
            "num_classes": node.NUM_CLASSES,
            "channels": node.CONVS_DIM,
            "norm": node.NORM,
            "loss_weight": node.LOSS_WEIGHT,
            "ignore_value": node.IGNORE_VALUE,
        }

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Computes losses in training, logits otherwise.

        Args:
            features: name to (B, D, H / stride, W / stride).
            targets: int64 (B, H, W); required in training only.

        Returns:
            In training (None, ``loss_sem_seg`` and, with an auxiliary head, ``loss_sem_seg_aux``), else
            (logits (B, C, H, W), {}).
        """
        logits = self.layers(features)
        if not self.training:
            return resized(logits, [side * self.stride for side in logits.shape[-2:]]), {}
        assert targets is not None
        losses = {"loss_sem_seg": self.loss_weight * self._loss(logits, targets)}
        if self.aux is not None and self.aux_in_feature is not None:
            aux = self._loss(self.aux(features[self.aux_in_feature]), targets)
            losses["loss_sem_seg_aux"] = self.aux_loss_weight * aux
        return None, losses

    def layers(self, features: Mapping[str, Tensor]) -> Tensor:
        """Computes logits (B, C, H / stride, W / stride) at the finest level's stride."""
        maps = [features[name] for name in self.in_features]
        top = self.pool(maps[-1])
        fused = [top]
        for lateral, x in zip(reversed(self.lateral), reversed(maps[:-1]), strict=True):
            x = lateral(x)
            fused.insert(0, x + resized(fused[0], x.shape[-2:]))
        smooth = [layer(x) for layer, x in zip(self.smooth, fused[:-1], strict=True)]
        size = smooth[0].shape[-2:]
        x = self.fuse(torch.cat([resized(x, size) for x in (*smooth, top)], dim=1))
        return self.predictor(self.dropout(x))

    def _loss(self, logits_BCHW: Tensor, targets_BHW: Tensor) -> Tensor:
        logits = resized(logits_BCHW.float(), targets_BHW.shape[-2:])
        return pixel_cross_entropy(logits, targets_BHW, self.ignore_value)


def pixel_cross_entropy(
    logits_BCHW: Tensor, targets_BHW: Tensor, ignore_value: int = 255
) -> Tensor:
    """Mean cross-entropy over non-ignored pixels, 0 if there are none; mmsegmentation divides by all."""
    total = F.cross_entropy(
        logits_BCHW.float(), targets_BHW, ignore_index=ignore_value, reduction="sum"
    )
    return total / (targets_BHW != ignore_value).sum().clamp(min=1)


def conv(in_channels: int, out_channels: int, kernel: int, norm: Norm) -> Conv2d:
    """Builds convolution, norm and ReLU, with He initialisation."""
    options = {"padding": kernel // 2, "bias": not norm, "norm": get_norm(norm, out_channels)}
    layer = Conv2d(in_channels, out_channels, kernel, **options, activation=F.relu)
    weight_init.c2_msra_fill(layer)
    return layer


def classifier(in_channels: int, num_classes: int) -> nn.Conv2d:
    """Builds a linear layer for every position, initialised to nearly equal class scores."""
    layer = nn.Conv2d(in_channels, num_classes, 1)
    nn.init.normal_(layer.weight, std=0.01)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def averaged(x: Tensor, grid: int) -> Tensor:
    """``F.adaptive_avg_pool2d`` as two matrix products: ONNX lacks it unless ``grid`` divides the sides."""
    rows, columns = (_shares(int(side), grid).to(x) for side in x.shape[-2:])
    return F.linear(F.linear(x, columns).transpose(2, 3), rows).transpose(2, 3)


def _shares(side: int, parts: int) -> Tensor:
    """Averaging weights (parts, side) of each position in each part; parts overlap where necessary."""
    shares = torch.zeros(parts, side)
    for k in range(parts):
        start, end = k * side // parts, -(-(k + 1) * side // parts)
        shares[k, start:end] = 1 / (end - start)
    return shares


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resizes (B, X, h, w) bilinearly to another (height, width)."""
    if list(x.shape[-2:]) == list(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
