"""Batches on the GPU before they are asked for."""

from collections.abc import Iterator
from typing import Any

import torch


class DevicePrefetcher(Iterator[Any]):
    """Copies one batch ahead, on a stream of its own, while the device computes.

    Copies overlap where batches come in pinned memory. On the CPU batches are only taken one ahead. An error
    that a loader hands over in place of a batch keeps its place.

    Args:
        batches: of objects with ``stacks``, tensors by key; other objects are handed on.
        device: where the tensors are to be.
    """

    def __init__(self, batches: Iterator[Any], device: torch.device) -> None:
        self._batches = batches
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ahead: list[Any] = []

    def _fetch(self) -> None:
        try:
            batch = next(self._batches)
        except StopIteration:
            return
        if hasattr(batch, "stacks"):
            with torch.cuda.stream(self._stream):
                batch.stacks = {
                    key: stack.to(self._device, non_blocking=True)
                    for key, stack in batch.stacks.items()
                }
        self._ahead.append(batch)

    def __next__(self) -> Any:
        """The batch that is there; the one after it is on its way when this returns."""
        if not self._ahead:  # the first time, and after the last batch
            self._fetch()
        if not self._ahead:
            raise StopIteration
        batch = self._ahead.pop()
        if self._stream is not None:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_stream(self._stream)
            for stack in getattr(batch, "stacks", {}).values():
                # Made on the copying stream: its memory may be given away only after the step has read it.
                stack.record_stream(computing)
        self._fetch()
        return batch
