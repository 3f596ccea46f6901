"""The progress line that a run prints periodically, and traces of single steps."""

import datetime
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils.comm import get_rank
from detectron2.utils.events import EventWriter as MetricWriter
from detectron2.utils.events import get_event_storage

from ..events import EventWriter
from .throughput import Peak

logger = logging.getLogger(__name__)

#: Fraction of its time that a run may wait for images before a warning.
DATA_WAIT_LIMIT = 0.1

# What a masking policy may report besides its losses; see LearnedMasking.
_OF_MASKING = (
    "discriminator_accuracy",
    "mask_entropy",
    "chosen_foreground",
    "hidden_foreground",
    "all_foreground",
)


class StepWriter(MetricWriter):
    """Writes the event ``step`` for each logged step, and a human-readable line.

    The line has iteration, time left, losses, images per second, MFU, waiting for data, rate and memory. The
    values are those of metrics.json and TensorBoard, except evaluations, which have their own events.

    Args:
        events: of the run.
        max_iter: of the run.
        evaluated: results so far, by task; names that begin with a task are left out.
        peak: reference for MFU.
    """

    def __init__(
        self,
        events: EventWriter,
        max_iter: int,
        evaluated: Mapping[str, Any] = MappingProxyType({}),
        peak: Peak | None = None,
    ) -> None:
        self.events = events
        self.max_iter = max_iter
        self.evaluated = evaluated
        self._peak = f" of {peak}" if peak else ""
        self._last = -1

    def write(self) -> None:
        """Write what was stored since the last call."""
        storage = get_event_storage()
        if "time" in storage.latest() and storage.iter < self.max_iter:
            seconds = storage.history("time").median(1000) * (self.max_iter - storage.iter - 1)
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        steps: dict[int, dict[str, float]] = {}
        # The same values as in Detectron2's JSONWriter.
        for name, (value, iteration) in storage.latest_with_smoothing_hint(20).items():
            if iteration > self._last and name.partition("/")[0] not in self.evaluated:
                steps.setdefault(iteration, {})[name] = value
        for iteration, values in sorted(steps.items()):
            self._last = iteration
            self.events.write("step", iteration=iteration, values=values)
            if "images_per_second" in values:
                logger.info("  ".join(self._parts(iteration, values)))

    def _parts(self, iteration: int, values: dict[str, float]) -> Iterator[str]:
        yield f"iter: {iteration}"
        if "eta_seconds" in values:
            yield f"eta: {datetime.timedelta(seconds=int(values['eta_seconds']))}"
        losses = [n for n in values if "loss" in n and "/" not in n and n != "total_loss"]
        yield from (f"{name}: {values[name]:.4g}" for name in ("total_loss", *losses))
        yield from (f"{name}: {values[name]:.3g}" for name in _OF_MASKING if name in values)
        yield f"grad_norm: {values['grad_norm']:.3g}"
        yield f"lr: {values.get('lr', float('nan')):.4g}"
        yield f"{values['images_per_second']:.4g} images/s"
        if "mfu" in values:
            yield f"mfu: {values['mfu']:.1%}{self._peak}"
            self._peak = ""  # once is enough
        yield f"data wait: {values['data_wait']:.1%}"
        yield f"memory: {values['memory_mib']:.0f} MiB"


class WarnOfDataWait(HookBase):
    """Warns, with the remedy, when the device waits for images; repeated after twice as many occurrences.

    The first value includes the start of the loader's workers and is ignored.

    Args:
        num_workers: of the loader.
        regions: whether it computes regions that could be stored.
    """

    def __init__(self, num_workers: int, regions: bool = False) -> None:
        self.num_workers = num_workers
        self.regions = regions
        self._seen = -1  # iteration of the last value, of which the first is ignored
        self._late = 0

    def after_step(self) -> None:
        """Check the value from the last logged step."""
        share, iteration = self.trainer.storage.latest().get("data_wait", (0.0, -1))
        if iteration == self._seen:
            return
        first, self._seen = self._seen < 0, iteration
        if first or share <= DATA_WAIT_LIMIT:
            return
        self._late += 1
        if self._late & (self._late - 1) == 0:
            logger.warning(
                "training waits for images %.0f%% of its time. Raise dataloader.train.num_workers (now %d "
                "per process)%s, or store smaller images",
                100 * share,
                self.num_workers,
                ", compute regions ahead of training (rmae-d2 regions)" if self.regions else "",
            )


class Profile(HookBase):
    """``--profile``: writes a PyTorch profiler trace of a few steps, to open in https://ui.perfetto.dev.

    Args:
        folder: receives ``trace_rank0.json`` and so on.
        wait: number of initial steps to skip as warm-up; at least 1.
        steps: number of steps in the trace.
    """

    def __init__(self, folder: Path, wait: int = 5, steps: int = 3) -> None:
        self.folder = folder
        self.steps = steps
        self._profiler = torch.profiler.profile(
            schedule=torch.profiler.schedule(wait=wait - 1, warmup=1, active=steps, repeat=1),
            on_trace_ready=self._write,
            profile_memory=True,
        )

    def before_train(self) -> None:
        self._profiler.start()

    def after_step(self) -> None:
        self._profiler.step()

    def after_train(self) -> None:
        self._profiler.stop()

    def _write(self, profiler: torch.profiler.profile) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"trace_rank{get_rank()}.json"
        profiler.export_chrome_trace(str(path))
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        logger.info("%s", profiler.key_averages().table(sort_by=order, row_limit=15))
        logger.info("profile of %d steps: %s", self.steps, path)
