"""Top-1 and top-5 accuracy of image classification."""

from collections import OrderedDict
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from ..errors import UserError


def hits(scores_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Counts images with their class ranked first, with it among the first five, and all images.

    A class with a score of -inf counts as not proposed; int64 labels beyond the scores count as misses.

    Returns:
        (3,) int64, on the device of the scores.
    """
    best, order = scores_BC.topk(min(5, scores_BC.shape[1]), dim=1)
    right = (order == labels_B[:, None]) & (best > -torch.inf)
    total = right.new_full((), len(labels_B), dtype=torch.int64)
    return torch.stack([right[:, 0].sum(), right.sum(), total])


def accuracies(counts: Tensor, num_classes: int) -> dict[str, float]:
    """Converts `hits` to ``top1``, and with more than five classes ``top5``, in percent."""
    top1, top5, total = counts.tolist()
    found = {"top1": 100 * top1 / total}
    return found | ({"top5": 100 * top5 / total} if num_classes > 5 else {})


class ClassificationEvaluator(DatasetEvaluator):
    """Accuracy over a dataset from the ``logits`` of a `Classifier`."""

    def reset(self) -> None:
        self._counts = torch.zeros(3, dtype=torch.int64)
        self._num_classes = 0

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Tensor]]) -> None:
        """Adds samples with their ``label`` and a classifier's outputs."""
        logits = torch.stack([output["logits"] for output in outputs])
        labels = torch.tensor([int(sample["label"]) for sample in inputs], device=logits.device)
        if not torch.isfinite(logits).all():
            raise UserError(
                f"{inputs[0].get('file_name', 'an image')} or another of its batch has scores that are not "
                "finite: has the training diverged?"
            )
        self._counts += hits(logits, labels).cpu()
        self._num_classes = logits.shape[1]

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Returns ``{"classification": {"top1": ..., "top5": ...}}`` in percent on rank 0."""
        gathered = comm.gather((self._counts, self._num_classes))
        if not comm.is_main_process():
            return None
        counts = torch.stack([counts for counts, _ in gathered]).sum(dim=0)
        if not counts[2]:
            raise UserError("no image was classified: is dataloader.test empty?")
        return OrderedDict(classification=accuracies(counts, max(n for _, n in gathered)))
