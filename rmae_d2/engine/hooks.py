"""What happens around a step: learning rate, checkpoints, signals, averages, pictures."""

import logging
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
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .checkpointer import Checkpointer

logger = logging.getLogger(__name__)


class LRSchedule(HookBase):
    """Sets the learning rate of the coming step: a function of the iteration alone, no state to resume."""

    def __init__(self, optimizer: torch.optim.Optimizer, multiplier: ParamScheduler) -> None:
        self.optimizer = optimizer
        self.multiplier = multiplier
        self.base = [group["lr"] for group in optimizer.param_groups]

    def before_step(self) -> None:
        factor = self.multiplier(self.trainer.iter / self.trainer.max_iter)
        for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = base * factor
        # The rate most parameters have, as Detectron2's hook reports it.
        lr = max(g["lr"] for g in self.optimizer.param_groups)
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)


class PeriodicCheckpoint(HookBase):
    """Saves every ``period`` iterations and after the last; keeps the ``max_to_keep`` newest."""

    def __init__(self, checkpointer: Checkpointer, period: int, max_to_keep: int) -> None:
        self.checkpointer = checkpointer
        self.period = period
        self.max_to_keep = max_to_keep

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done >= self.trainer.max_iter:
            self.save("model_final")
        elif self.period > 0 and done % self.period == 0:
            self.save(f"model_{self.trainer.iter:07d}")

    def save(self, name: str) -> None:
        """Saves now; on all ranks, for all must agree that the weights are sound."""
        self.trainer.check_finite()
        if comm.is_main_process():
            path = self.checkpointer.save(name, self.trainer.iter)
            self.checkpointer.prune(self.max_to_keep, self.trainer.iter)
            logger.info("saved %s", path)


class SaveOnSignal(HookBase):
    """SIGTERM and SIGUSR1 save a checkpoint after the running step and end the run cleanly.

    Every rank may get the signal at another step, so the ranks ask each other every ``poll_period`` steps.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, checkpoint: PeriodicCheckpoint, poll_period: int = 10) -> None:
        self.checkpoint = checkpoint
        self.poll_period = poll_period if comm.get_world_size() > 1 else 1
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def before_train(self) -> None:
        self._previous = {s: signal.signal(s, self._note) for s in self.SIGNALS}

    def after_train(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number

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
            raise SystemExit(0)


class WriteMetrics(PeriodicWriter):
    """Detectron2's hook, but a run that ends early closes its files without another line.

    Detectron2 would estimate an end from no time passed, and fail in place of the real error.
    """

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()
            return
        for writer in self._writers:
            with suppress(OSError):  # a full disk has been reported by then
                writer.close()


class Evaluate(EvalHook):
    """Detectron2's hook, but a run whose last step failed is not evaluated."""

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class EMA:
    """Exponential moving average of a model's parameters, on its device."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.source = model.module if isinstance(model, DistributedDataParallel) else model
        self.averaged = AveragedModel(self.source, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def update(self) -> None:
        self.averaged.update_parameters(self.source)

    def state_dict(self) -> dict[str, Any]:
        return self.averaged.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.averaged.load_state_dict(state)


class EMAHook(HookBase):
    """Updates the average after each step."""

    def __init__(self, ema: EMA) -> None:
        self.ema = ema

    def after_step(self) -> None:
        self.ema.update()


class Pictures(HookBase):
    """Draws reconstructions of the same few samples, for TensorBoard and at the end as a file.

    Args:
        model: an RMAE.
        samples: called once, at the start, for what to draw.
        draw: from samples and the model's outputs to an RGB image (H, W, 3) uint8.
        period: iterations between two pictures.
        path: of the picture after the last iteration.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Callable[[], list[dict[str, Any]]],
        draw: Callable[[list[dict[str, Any]], list[dict[str, Any]]], Any],
        period: int,
        path: Path,
    ) -> None:
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.make_samples = samples
        self.draw = draw
        self.period = period
        self.path = path

    def before_train(self) -> None:
        self.samples = self.make_samples()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period == 0 or done == self.trainer.max_iter:
            image = self._picture()
            self.trainer.storage.put_image("reconstruction", image.transpose(2, 0, 1))
            if done == self.trainer.max_iter:
                from PIL import Image

                Image.fromarray(image).save(self.path)

    def _picture(self) -> Any:
        self.model.eval()
        try:
            with torch.no_grad():
                outputs = self.model(self.samples)
        finally:
            self.model.train()
        return self.draw(self.samples, outputs)
