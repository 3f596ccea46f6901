"""Assign positions of the stream to micro-batches, and find the next one. Letters: see `loader`."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import get_worker_info

from ..errors import UserError


@dataclass(frozen=True)
class StreamBatchSampler:
    """Endless positions of one process's micro-batches, from optimizer step ``start_iter`` on.

    At step t and accumulation step a, rank r gets t*B + (a*W + r)*m + j for j = 0 ... m - 1.

    Raises:
        UserError: B is not a positive multiple of W * A.
    """

    total_batch_size: int
    world_size: int = 1
    rank: int = 0
    grad_accum: int = 1
    start_iter: int = 0

    def __post_init__(self) -> None:
        share = self.world_size * self.grad_accum
        if share < 1:
            raise UserError(f"grad_accum={self.grad_accum} must be 1 or more")
        if self.total_batch_size < 1 or self.total_batch_size % share:
            below = max(self.total_batch_size, 0) // share * share
            working = f"{below} or {below + share}" if below else f"{share}"
            raise UserError(
                f"total_batch_size={self.total_batch_size} does not divide by {self.world_size} "
                f"processes x {self.grad_accum} accumulation steps: take {working}"
            )

    @property
    def micro_batch_size(self) -> int:
        """Images per micro-batch, m."""
        return self.total_batch_size // (self.world_size * self.grad_accum)

    def __iter__(self) -> Iterator[list[int]]:
        return map(self._batch, itertools.count(self.start_iter * self.grad_accum))

    def _batch(self, number: int) -> list[int]:
        """The micro-batch of this process with a number, counted from the first step on."""
        step, accumulation = divmod(number, self.grad_accum)
        share = accumulation * self.world_size + self.rank
        first = step * self.total_batch_size + share * self.micro_batch_size
        return list(range(first, first + self.micro_batch_size))

    def following(self, batch: Sequence[int]) -> list[int]:
        """The micro-batch that the worker loading this one gets next; workers take turns."""
        step, place = divmod(batch[0], self.total_batch_size)
        accumulation = place // self.micro_batch_size // self.world_size
        worker = get_worker_info()
        turns = 1 if worker is None else worker.num_workers
        return self._batch(step * self.grad_accum + accumulation + turns)
