"""Keep the weights of the best evaluation, and end a run whose evaluations no longer improve."""

import logging
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from ..checkpoint import atomic_save
from ..errors import UserError, did_you_mean
from ..events import EventWriter, read_run, results
from .checkpointer import FINAL
from .hooks import PeriodicCheckpoint

logger = logging.getLogger(__name__)

FILE = "model_best.pth"


class NoLongerBetter(SystemExit):
    """Raised when a run ends early for lack of improvement, after writing its model_final.pth."""


class KeepBest(HookBase):
    """Keeps the best evaluation's weights in ``model_best.pth``; must be the last of a run's hooks.

    On a resume, the best value so far is read from the run's events.

    Args:
        metric: a result's name, such as ``bbox/AP``; higher is better, unless its last part begins with
            "loss" or it is prefixed with "-".
        patience: number of evaluations without improvement after which the run ends; 0 for no limit.
        parts: the parts of the config whose data are evaluated on.
        checkpoint: writes model_final.pth.
        events: of the run.
    """

    def __init__(
        self,
        metric: str,
        patience: int,
        parts: Collection[str],
        checkpoint: PeriodicCheckpoint,
        events: EventWriter,
    ) -> None:
        self.metric = metric.removeprefix("-")
        lower = metric.startswith("-") or self.metric.rpartition("/")[2].startswith("loss")
        self.sign = -1 if lower else 1
        self.patience = patience
        self.folder = Path(checkpoint.checkpointer.folder)
        self.checkpoint = checkpoint
        self.events = events
        self.best: tuple[float, int] | None = None  # value and iteration
        self.passed = 0  # evaluations since then
        self._parts = set(parts)
        self._seen: dict[str, None] = {}  # names in the order of the results

    def restore(self, start: int) -> None:
        """Restore the state from evaluations before iteration ``start``, as recorded in the run's events."""
        if start and (self.folder / FILE).is_file():
            for iteration, value in results(read_run(self.folder)[0]).get(self.metric, ()):
                if iteration < start:
                    self._note(value, int(iteration))

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return 0 < self.patience <= self.passed

    @property
    def story(self) -> str:
        """The best result so far, in words."""
        if self.best is None:
            return f"no evaluation gave {self.metric}"
        value, iteration = self.best
        return f"the best {self.metric} is {value:.4g}, after iteration {iteration}"

    def consider(self, part: str, given: dict[str, Any], plain: nn.Module, iteration: int) -> None:
        """Process an evaluation; called identically by all processes, within ``whole``.

        Args:
            part: the part of the config that was evaluated.
            given: results by task; empty except on the main process.
            plain: the model with all its weights.
            iteration: iteration after which it was evaluated.

        Raises:
            UserError: none of the evaluations reports the metric.
        """
        message = self._consider(part, given, plain, iteration) if given else None
        found = comm.all_gather((message, self.best, self.passed))
        for problem in (problem for problem, *_ in found if problem):
            raise UserError(problem)
        _, self.best, self.passed = found[0]

    def _consider(
        self, part: str, given: dict[str, Any], plain: nn.Module, iteration: int
    ) -> str | None:
        """Keep the weights if they are better; return what is wrong with the metric, if anything."""
        values = flatten_results_dict(given)
        self._seen.update(dict.fromkeys(values))
        self._parts.discard(part)
        if self.metric not in values:
            if self._parts or self.metric in self._seen:
                return None
            hint = did_you_mean(self.metric, self._seen, sep="/", otherwise="none is like it")
            return (
                f"train.keep_best={self.metric}: no such metric; {hint} The results have "
                f"{', '.join(self._seen)}"
            )
        if self._note(float(values[self.metric]), iteration):
            path = self.folder / FILE
            atomic_save({"model": plain.state_dict(), "iteration": iteration}, str(path))
            self.events.write("checkpoint", iteration=iteration, file=FILE)
            logger.info("%s: saved %s", self.story, path)
        return None

    def _note(self, value: float, iteration: int) -> bool:
        """Count an evaluation; return whether it is the best so far."""
        better = not math.isnan(value) and (
            self.best is None or self.sign * value > self.sign * self.best[0]
        )
        if better:
            self.best = (value, iteration)
        self.passed = 0 if better else self.passed + 1
        return better

    def after_step(self) -> None:
        """End the run if patience has run out."""
        if self.is_over and self.trainer.iter + 1 < self.trainer.max_iter:
            self.checkpoint.save(FINAL)
            comm.synchronize()
            logger.info(
                "ending after iteration %d of %d: %d evaluations gave nothing better (train.patience=%d); %s",
                *(self.trainer.iter, self.trainer.max_iter, self.passed, self.patience, self.story),
            )
            raise NoLongerBetter


def check_keep_best(cfg: DictConfig, parts: Collection[str]) -> None:
    """Raise UserError if ``train.keep_best`` or ``train.patience`` has nothing to compare.

    Args:
        cfg: of the run.
        parts: the parts of the config whose data are evaluated on.
    """
    metric, patience = cfg.train.get("keep_best", ""), cfg.train.get("patience", 0)
    if patience and not metric:
        raise UserError(
            f"train.patience={patience} of what? Name a metric with train.keep_best=bbox/AP"
        )
    if metric and not parts:
        raise UserError(
            f"train.keep_best={metric}: nothing is evaluated while this trains; set train.eval_period"
        )
