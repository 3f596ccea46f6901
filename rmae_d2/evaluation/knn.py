"""k-NN evaluation of features without training: classes by weighted votes of the nearest images.

Wu et al., 2018 (instance discrimination), with the settings of Caron et al., 2021 (DINO): 20 neighbours, each
voting for its class with weight exp(cosine / 0.07).

Letters: N voting images (the bank), Q query images, D width, C classes.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.utils import comm
from torch import Tensor, nn

from ..errors import UserError
from ..modeling.transfer.classifier import FeatureExtractor
from .classification import accuracies, hits

logger = logging.getLogger(__name__)


def knn_votes(
    queries_QD: Tensor,
    bank_ND: Tensor,
    labels_N: Tensor,
    num_classes: int,
    *,
    k: int = 20,
    temperature: float = 0.07,
    own_Q: Tensor | None = None,
    bank_chunk: int = 32768,
) -> Tensor:
    """Computes the votes for each class.

    Args:
        queries_QD, bank_ND: normalised features, any float type; computed in float32.
        labels_N: classes of the bank, int64 in [0, num_classes).
        k: voters per query; all if there are fewer.
        own_Q: int64 positions of the queries in the bank, if they must not vote for themselves.
        bank_chunk: voters compared at a time, which bounds memory to Q * bank_chunk scores.

    Returns:
        float32 (Q, C), with weight 1 for a query's nearest voter; 0 for a class without a voter.
    """
    best = queries_QD.new_empty(len(queries_QD), 0, dtype=torch.float32)
    best_labels = labels_N.new_empty(len(queries_QD), 0)
    queries = queries_QD.float()
    for start in range(0, len(bank_ND), bank_chunk):
        chunk = bank_ND[start : start + bank_chunk].float()
        cosines = queries @ chunk.T
        if own_Q is not None:
            places = torch.arange(start, start + len(chunk), device=own_Q.device)
            cosines.masked_fill_(places == own_Q[:, None], -torch.inf)
        nearest, index = cosines.topk(min(k, len(chunk)), dim=1)
        best = torch.cat([best, nearest], dim=1)
        best_labels = torch.cat([best_labels, labels_N[start + index]], dim=1)
        best, index = best.topk(min(k, best.shape[1]), dim=1)
        best_labels = best_labels.gather(1, index)
    votes = best.new_zeros(len(queries), num_classes)
    # Relative to the nearest voter: exp(1 / temperature) itself overflows below 0.0113.
    weights = ((best - best[:, :1]) / temperature).exp()
    return votes.scatter_add_(1, best_labels, weights)


class KNNEvaluator(DatasetEvaluator):
    """k-NN accuracy of the ``features`` of a `FeatureExtractor`.

    Samples with ``bank`` True vote on those with False; if all have True, each is classified by the others.
    Features are kept in float16 on the model's device, 2 GB for ImageNet and a ViT-B in every process, and
    twice that briefly.

    Args:
        k, temperature: see `knn_votes`.
        query_chunk, bank_chunk: images compared at a time.
    """

    def __init__(
        self,
        k: int = 20,
        temperature: float = 0.07,
        query_chunk: int = 512,
        bank_chunk: int = 32768,
    ) -> None:
        if min(k, temperature, query_chunk, bank_chunk) <= 0:
            raise UserError(
                f"k={k}, temperature={temperature}, query_chunk={query_chunk}, bank_chunk={bank_chunk}: all "
                "must be positive"
            )
        self.k, self.temperature = k, temperature
        self.query_chunk, self.bank_chunk = query_chunk, bank_chunk
        self.reset()

    def reset(self) -> None:
        self._features: list[Tensor] = []
        self._labels: list[int] = []
        self._bank: list[bool] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Tensor]]) -> None:
        """Adds samples with ``label`` and ``bank``, and their features."""
        features = torch.stack([output["features"] for output in outputs]).float()
        if not torch.isfinite(features).all():
            raise UserError(
                f"{inputs[0].get('file_name', 'an image')} or another of its batch has features that are "
                "not finite: has the training diverged?"
            )
        self._features.append(F.normalize(features, dim=1).half())
        self._labels += [int(sample["label"]) for sample in inputs]
        self._bank += [bool(sample["bank"]) for sample in inputs]

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Returns ``{"knn": {"top1": ..., "top5": ..., "commonest": ...}}`` in percent on rank 0.

        The last is the accuracy of always predicting the most common class.
        """
        features, labels, bank = self._gathered()
        leave_one_out = bool(bank.all())
        voters, voter_labels = features[bank], labels[bank]
        asked = bank if leave_one_out else ~bank
        queries, query_labels = features[asked], labels[asked]
        num_voters = len(voters) - leave_one_out
        if num_voters < 1:
            raise UserError("k-NN needs images that vote: is bank_split empty?")
        if num_voters < self.k:
            logger.warning("k-NN: only %d images vote, fewer than k=%d", num_voters, self.k)
        num_classes = int(labels.max()) + 1
        counts = torch.zeros(3, dtype=torch.int64, device=features.device)
        every = torch.arange(len(queries), device=features.device)
        mine = every[comm.get_rank() :: comm.get_world_size()]
        for places in mine.split(self.query_chunk):
            votes = knn_votes(
                queries[places],
                voters,
                voter_labels,
                num_classes,
                k=self.k,
                temperature=self.temperature,
                own_Q=places if leave_one_out else None,
                bank_chunk=self.bank_chunk,
            )
            # The logarithm keeps the order, with -inf for no vote at all.
            counts += hits(votes.log(), query_labels[places])
        self.reset()
        gathered = comm.gather(counts.cpu())
        if not comm.is_main_process():
            return None
        logger.info(
            "k-NN: %d images by the votes of %d%s",
            *(len(queries), len(voters), ", each left out for itself" if leave_one_out else ""),
        )
        found = accuracies(torch.stack(gathered).sum(dim=0), num_classes)
        commonest = int(query_labels.bincount().max())
        return OrderedDict(knn={**found, "commonest": 100 * commonest / len(query_labels)})

    def _gathered(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gathers features (N, D), labels and whether they vote from all processes, on each."""
        sizes = comm.all_gather(len(self._labels))
        if min(sizes) == 0:
            raise UserError(f"k-NN: the processes got {sizes} images: each needs one")
        features = torch.cat(self._features)
        self._features.clear()
        facts = torch.tensor([self._labels, self._bank], device=features.device)
        features = _all_gather_rows(features, sizes)
        labels, bank = _all_gather_rows(facts.T, sizes).unbind(dim=1)
        return features, labels, bank.bool()


def _all_gather_rows(rows: Tensor, sizes: list[int]) -> Tensor:
    """Concatenates the processes' tensors, which differ only in length."""
    if len(sizes) == 1:
        return rows
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows
    every = [torch.empty_like(padded) for _ in sizes]
    torch.distributed.all_gather(every, padded)
    return torch.cat([part[:size] for part, size in zip(every, sizes, strict=True)])


@dataclass
class KNNEvaluation:
    """k-NN evaluation of a model with an encoder, at any point of its training."""

    loader: Iterable[list[dict[str, Any]]]  # finite, of knn_dataset
    evaluator: KNNEvaluator
    pool: str = "cls"  # or mean: the features to compare
    precision: str = "fp32"  # or bf16 or fp16, for the encoder
    period: int = 0  # training iterations between two evaluations; 0 for none

    def __call__(self, model: nn.Module) -> Any:
        """Evaluates an ``RMAE`` or ``Classifier`` without affecting its training: results on rank 0."""
        features = FeatureExtractor.of(model, self.pool, self.precision)
        return inference_on_dataset(features, self.loader, self.evaluator)
