"""Semantic segmentation without training: each patch's class by weighted votes of the nearest patches.

The votes are those of `knn` (Wu et al., 2018; Caron et al., 2021), for patches instead of images, as in
Balažević et al., 2023 ("Towards in-context scene understanding") and others.

Letters: B images, D width, Gh Gw grid of patches, H W pixels, P patch side, N voting patches, C classes.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.evaluation import inference_on_dataset
from torch import Tensor, nn

from ..errors import UserError
from ..modeling.transfer.segmentor import SlidingSemanticSegmentor
from .knn import knn_votes
from .semantic import SemSegEvaluator


def patch_labels(labels_HW: Tensor, patch_size: int, num_classes: int) -> Tensor:
    """Finds the most common class in each patch, the smallest if equally common.

    Args:
        labels_HW: uint8, class indices; others (255) do not count.

    Returns:
        int64 (H // P, W // P); -1 for a patch without a labelled pixel.
    """
    known = labels_HW < num_classes
    one_hot = F.one_hot(labels_HW.long().where(known, 0), num_classes) * known[:, :, None]
    counts_CHW = one_hot.permute(2, 0, 1)[None].float()
    shares = F.avg_pool2d(counts_CHW, patch_size)[0]
    return shares.argmax(dim=0).where(shares.amax(dim=0) > 0, -1)


class KNNHead(nn.Module):
    """Replaces a segmentor's head: votes of a bank of patches, enlarged to pixels.

    Args:
        bank_ND: normalised features of the voting patches.
        labels_N: their classes, int64.
        num_classes: C.
        stride: pixels per patch.
        k, temperature: see `knn_votes`.
    """

    def __init__(
        self,
        bank_ND: Tensor,
        labels_N: Tensor,
        num_classes: int,
        stride: int,
        k: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.bank, self.labels = bank_ND, labels_N
        self.num_classes, self.stride = num_classes, stride
        self.k, self.temperature = k, temperature

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns (vote shares (B, C, H, W), {}) for the one feature, (B, D, Gh, Gw)."""
        (feature,) = features.values()
        grid = feature.shape[2:]
        queries_QD = F.normalize(feature.flatten(2).transpose(1, 2).flatten(0, 1).float(), dim=1)
        votes = knn_votes(
            queries_QD,
            self.bank,
            self.labels,
            self.num_classes,
            k=self.k,
            temperature=self.temperature,
        )
        shares = votes / votes.sum(dim=1, keepdim=True)
        maps = shares.unflatten(0, (len(feature), -1)).transpose(1, 2).unflatten(2, grid)
        size = [side * self.stride for side in grid]
        return F.interpolate(maps, size, mode="bilinear", align_corners=False), {}


@dataclass
class KNNSegmentation:
    """k-NN segmentation with the patch features of a segmentor's backbone, at any point of its training.

    Args:
        bank: finite loader of samples with labels, all of one size, whose patches vote.
        test: finite loader of images, with ``evaluator`` as used for the segmentor itself.
        period: training iterations between two evaluations; 0 for none.
        k, temperature: see `knn_votes`.
    """

    bank: Iterable[list[dict[str, Any]]]
    test: Iterable[list[dict[str, Any]]]
    evaluator: SemSegEvaluator
    period: int = 0
    k: int = 20
    temperature: float = 0.07

    def __call__(self, model: nn.Module) -> Any:
        """Returns ``{"knn_seg": {"mIoU": ...}}`` and the evaluator's other results, in percent, on rank 0."""
        if not isinstance(model, SlidingSemanticSegmentor):
            raise UserError(
                f"k-NN segmentation is of a segmentor's features, not of a {type(model).__name__}'s: leave "
                "dataloader.knn out"
            )
        training = model.training
        model.eval()
        segmentor = SlidingSemanticSegmentor(
            backbone=model.backbone,
            sem_seg_head=self._head(model),
            pixel_mean=model.pixel_mean.flatten().tolist(),
            pixel_std=model.pixel_std.flatten().tolist(),
            inference=model.inference_mode,
            window=model.window,
            stride=model.stride,
            windows_per_batch=model.windows_per_batch,
        ).to(model.device)
        results = inference_on_dataset(segmentor, self.test, self.evaluator)
        self.evaluator.reset()
        model.train(training)
        return OrderedDict(knn_seg=results["sem_seg"]) if results else results

    @torch.no_grad()
    def _head(self, model: SlidingSemanticSegmentor) -> KNNHead:
        num_classes = model.sem_seg_head.num_classes
        features: list[Tensor] = []
        labels: list[Tensor] = []
        stride = 1
        for samples in self.bank:
            images = torch.stack([sample["image"].to(model.device) for sample in samples])
            (feature,) = model.backbone((images - model.pixel_mean) / model.pixel_std).values()
            stride = images.shape[2] // feature.shape[2]
            features.append(F.normalize(feature.flatten(2).transpose(1, 2).flatten(0, 1), dim=1))
            labels += [patch_labels(s["sem_seg"], stride, num_classes).flatten() for s in samples]
        if not features:
            raise UserError("k-NN needs images that vote: dataloader.knn.bank has none")
        votes, classes = torch.cat(features).float(), torch.cat(labels).to(model.device)
        known = classes >= 0
        return KNNHead(votes[known], classes[known], num_classes, stride, self.k, self.temperature)
