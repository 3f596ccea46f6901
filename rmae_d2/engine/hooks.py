"""Training hooks: learning rate, checkpoints, signals, averages, pictures."""

import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook, PeriodicWriter
from detectron2.utils import comm
from detectron2.utils.events import EventWriter as MetricWriter
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn

from ..data.loader import AnyBatch, TrainLoader
from ..events import EventWriter
from ..signals import SAVING
from ..visualization.samples import is_kept, keep_sample, sweep_samples
from .checkpointer import FINAL, Checkpointer
from .parallel import as_sharded, local, unwrap, whole

logger = logging.getLogger(__name__)


class LRSchedule(HookBase):
    """Sets the learning rate of the next step from the iteration alone, so there is no state to resume."""

    def __init__(self, optimizer: torch.optim.Optimizer, multiplier: ParamScheduler) -> None:
        self.optimizer = optimizer
        self.multiplier = multiplier
        self.base = [group["lr"] for group in optimizer.param_groups]

    def before_step(self) -> None:
        factor = self.multiplier(self.trainer.iter / self.trainer.max_iter)
        for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = base * factor
        # The rate that most parameters have, as Detectron2's hook reports it.
        lr = max(g["lr"] for g in self.optimizer.param_groups)
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)


class CollapseWarning(HookBase):
    """Warns once if a mask generator has collapsed, i.e. keeps proposing the same few patches.

    Args:
        floor: threshold for ``mask_entropy``, a fraction of the maximum; see `LearnedMasking`.
    """

    def __init__(self, floor: float) -> None:
        self.floor = floor
        self._warned = False

    def after_step(self) -> None:
        """Check the value from the last logged step."""
        entropy, iteration = self.trainer.storage.latest().get("mask_entropy", (1.0, -1))
        if entropy >= self.floor or self._warned:
            return
        self._warned = True
        logger.warning(
            "the mask generator has collapsed: at iteration %d its entropy is %.3f of the largest, below "
            "entropy_floor=%g, so that few patches are ever marked. Raise generator_weight or temperature, "
            "or lower the learning rate, and begin again; training goes on",
            iteration,
            entropy,
            self.floor,
        )


class PeriodicCheckpoint(HookBase):
    """Saves every ``period`` iterations and after the last; keeps the ``max_to_keep`` newest."""

    def __init__(
        self, checkpointer: Checkpointer, period: int, max_to_keep: int, events: EventWriter
    ) -> None:
        self.checkpointer = checkpointer
        self.period = period
        self.max_to_keep = max_to_keep
        self.events = events

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done >= self.trainer.max_iter:
            self.save(FINAL)
        elif self.period > 0 and done % self.period == 0:
            self.save(f"model_{self.trainer.iter:07d}")

    def save(self, name: str) -> None:
        """Save now; called on all ranks, because all must agree that the weights are finite."""
        self.trainer.check_finite()
        path = self.checkpointer.save(name, self.trainer.iter)
        self.checkpointer.prune(self.max_to_keep, self.trainer.iter)
        self.events.write("checkpoint", iteration=self.trainer.iter, file=path.name)
        if comm.is_main_process():
            logger.info("saved %s", path)


class StoppedBySignal(SystemExit):
    """Raised when a run has saved and ends because of a signal; the exit code is 0."""

    def __init__(self, number: int, iteration: int) -> None:
        super().__init__(0)
        self.number = number
        self.iteration = iteration


def say_how_to_end_at_once() -> None:
    """Acknowledge ctrl-C; safe in a signal handler that may have interrupted a print."""
    os.write(
        2, b"\nsaving after the running step, then ending; ctrl-C again ends at once, unsaved\n"
    )


class SaveOnSignal(HookBase):
    """On SIGTERM, SIGINT, SIGUSR1 or SIGUSR2, saves after the current step and ends the run cleanly.

    Ranks may receive the signal at different steps, so they synchronize every ``poll_period`` steps.
    A second SIGINT (ctrl-C) ends a single process at once; for several processes, their launcher does so. If
    SIGINT is ignored, it remains ignored.
    """

    def __init__(self, checkpoint: PeriodicCheckpoint, poll_period: int = 10) -> None:
        self.checkpoint = checkpoint
        self.poll_period = poll_period if comm.get_world_size() > 1 else 1
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def before_train(self) -> None:
        ignored = {signal.SIGINT} if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else set()
        handled = set(SAVING) - ignored
        self._previous = {s: signal.signal(s, self._note) for s in handled}

    def after_train(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        if number == signal.SIGINT and comm.get_world_size() == 1:
            signal.signal(number, signal.SIG_DFL)
            say_how_to_end_at_once()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.poll_period or done >= self.trainer.max_iter:
            return
        received = [r for r in comm.all_gather(self.received) if r is not None]
        if received:
            self.checkpoint.save(f"model_{self.trainer.iter:07d}")
            comm.synchronize()
            logger.warning(
                "stopped by %s after iteration %d; continue with --resume",
                signal.Signals(received[0]).name,
                self.trainer.iter,
            )
            raise StoppedBySignal(received[0], self.trainer.iter)


class WriteMetrics(PeriodicWriter):
    """Detectron2's hook, except that a run that ends early closes its files without writing another line.

    Detectron2 would estimate the remaining time from zero elapsed time and fail, hiding the real error.
    Unreadable images are recorded as events.
    """

    def __init__(self, writers: list[MetricWriter], period: int, events: EventWriter) -> None:
        super().__init__(writers, period)
        self.events = events
        self._skipped: set[str] = set()

    def after_step(self) -> None:
        self._note_skipped()
        super().after_step()

    def after_train(self) -> None:
        self._note_skipped()
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()
            return
        for writer in self._writers:
            with suppress(OSError):  # a full disk has been reported by now
                writer.close()

    def _note_skipped(self) -> None:
        counter = self.trainer.skip_counter
        if counter is None or counter.count == len(self._skipped):
            return
        for file, reason in counter.reasons.items():
            if file not in self._skipped:
                self._skipped.add(file)
                self.events.write("skipped", file=file, reason=reason)


class NoteCache(HookBase):
    """Reports how useful the image cache is, after 1, 2, 4, ... epochs and at the end.

    Writes the event ``cache`` and a log line.

    Args:
        loader: a loader with a cache.
        events: of the run.
    """

    def __init__(self, loader: TrainLoader, events: EventWriter) -> None:
        self.loader, self.events = loader, events
        self._iteration = -1

    def after_step(self) -> None:
        self._iteration = self.trainer.iter
        done, size = (self.trainer.iter + 1) * self.loader.total_batch_size, self.loader.epoch_size
        epochs = done // size
        if epochs > (done - self.loader.total_batch_size) // size and not epochs & (epochs - 1):
            self._note()

    def after_train(self) -> None:
        self._note()

    def _note(self) -> None:
        assert self.loader.cache is not None
        counts = self.loader.cache.counts()
        self.events.write("cache", iteration=self._iteration, **counts)
        logger.info(
            "in memory: %d of %d encoded images, %.2f of %.2f GiB%s; %d of %d reads were of these",
            *(counts["images"], self.loader.dataset_size),
            *(counts["bytes"] / 2**30, counts["limit"] / 2**30),
            ", which is full" if counts["full"] else "",
            *(counts["hits"], counts["hits"] + counts["misses"]),
        )


class Evaluate(EvalHook):
    """Detectron2's hook, except that a run whose last step failed is not evaluated."""

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class EMA:
    """Exponential moving average of a model's parameters, on the same device and sharded like them.

    The first update is a copy.

    Attributes:
        averaged: the average, by parameter name.
        updates: number of updates so far.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.source = unwrap(model)
        self.decay = decay
        self.updates = 0
        named = dict(self.source.named_parameters())
        self._params = list(named.values())
        self.averaged = {name: param.detach().clone() for name, param in named.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the current parameters."""
        averaged = [local(value) for value in self.averaged.values()]
        current = [local(param) for param in self._params]
        if self.updates == 0:
            torch._foreach_copy_(averaged, current)
        else:
            torch._foreach_lerp_(averaged, current, 1 - self.decay)
        self.updates += 1

    def weights(self) -> dict[str, Any]:
        """The model's state dict with averages in place of parameters; buffers are the model's own."""
        return {**self.source.state_dict(), **self.averaged}

    def state_dict(self) -> dict[str, Any]:
        """The state, with the names used by torch's ``AveragedModel``."""
        weights = {f"module.{name}": value for name, value in self.weights().items()}
        return {"n_averaged": torch.tensor(self.updates), **weights}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the average.

        Raises:
            KeyError: a parameter is missing.
            RuntimeError: a parameter has another shape.
        """
        weights = {name: state[f"module.{name}"] for name in self.averaged}
        for name, value in as_sharded(weights, self.averaged).items():
            if value.shape != self.averaged[name].shape:
                raise RuntimeError(
                    f"the average of {name} has shape {tuple(value.shape)}, the parameter "
                    f"{tuple(self.averaged[name].shape)}"
                )
            self.averaged[name].copy_(value)
        self.updates = int(state["n_averaged"])


class EMAHook(HookBase):
    """Updates the average after each step."""

    def __init__(self, ema: EMA) -> None:
        self.ema = ema

    def after_step(self) -> None:
        self.ema.update()


class Pictures(HookBase):
    """Draws reconstructions of the same few samples, for TensorBoard and finally as a file.

    For the first two samples, pictures from the whole run are kept in ``samples`` beside that file, as
    described in `samples`. The main process draws; for an FSDP model the other processes need the hook as
    well.

    Args:
        model: an RMAE, possibly wrapped or sharded.
        samples: called once, at the start, to get the samples to draw.
        draw: maps samples and the model's outputs to an RGB image (H, W, 3) uint8.
        period: iterations between pictures.
        path: file for the picture after the last iteration.
    """

    ROWS_KEPT = 2

    def __init__(
        self,
        model: nn.Module,
        samples: Callable[[], AnyBatch],
        draw: Callable[[list[dict[str, Any]], list[dict[str, Any]]], Any],
        period: int,
        path: Path,
    ) -> None:
        self.model = model
        self.make_samples = samples
        self.draw = draw
        self.period = period
        self.path = path

    def before_train(self) -> None:
        if not comm.is_main_process():
            return
        self.samples = self.make_samples()
        # At iteration 0, existing samples are from a run that ended before saving anything to resume from.
        sweep_samples(self.path.parent, anew=self.trainer.start_iter == 0)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        last = done == self.trainer.max_iter
        if done % self.period and not last:
            return
        with whole(self.model) as model:
            if not comm.is_main_process():  # only needed to gather weights
                return
            outputs = self._outputs(model)
        image = self.draw(list(self.samples), outputs)
        self.trainer.storage.put_image("reconstruction", image.transpose(2, 0, 1))
        if last or is_kept(done, self.period):
            self._keep(outputs, done)
        if last:
            from PIL import Image

            Image.fromarray(image).save(self.path)

    def _keep(self, outputs: list[dict[str, Any]], done: int) -> None:
        few = slice(self.ROWS_KEPT)
        image = self.draw(list(self.samples)[few], outputs[few])
        try:
            keep_sample(self.path.parent, image, done, self.period)
        except OSError as error:  # a missing picture is no reason to end a run
            logger.warning("the picture after %d iterations could not be kept: %s", done, error)

    def _outputs(self, model: nn.Module) -> list[dict[str, Any]]:
        model.eval()
        try:
            with torch.no_grad():
                outputs: list[dict[str, Any]] = model(self.samples)
        finally:
            model.train()
        return outputs
