"""Experiment trackers that display what run.jsonl records: Weights & Biases, MLflow.

Where and under which project a tracker keeps a run is set through its own environment variables; by
default, the project is ``rmae_d2``, and the run is named after its folder. ``--resume`` continues the same
tracked run. If a tracker fails, it is dropped with a warning: none ends a training.
"""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..errors import UserError
from ..events import Event, EventWriter, as_number, read_run
from ..extras import needed

logger = logging.getLogger(__name__)

PROJECT = "rmae_d2"


class Tracker(Protocol):
    """One tracked run; any method may raise any exception.

    Attributes:
        id: identifies the run when resuming.
    """

    id: str

    def log(self, values: Mapping[str, float], iteration: int) -> None:
        """Log values of a training step or an evaluation."""

    def finish(self, outcome: str) -> None:
        """End the run; the outcome is ``finished``, ``stopped`` or ``failed``."""


class WeightsAndBiases:
    """https://docs.wandb.ai; ``WANDB_PROJECT``, ``WANDB_MODE=offline``."""

    def __init__(self, folder: Path, config: Mapping[str, Any], run_id: str | None) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            id=run_id,
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )
        # A resumed run logs some iterations again, which wandb's own steps do not allow.
        self._run.define_metric("*", step_metric="iteration")
        self.id = str(self._run.id)

    def log(self, values: Mapping[str, float], iteration: int) -> None:
        """See `Tracker`."""
        self._run.log({**values, "iteration": iteration})

    def finish(self, outcome: str) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=int(outcome == "failed"))


class MLflow:
    """https://mlflow.org; ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME``."""

    def __init__(self, folder: Path, config: Mapping[str, Any], run_id: str | None) -> None:
        import mlflow

        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        run = mlflow.start_run(run_id=run_id, run_name=folder.name)
        mlflow.log_dict(dict(config), "config.json")
        self.id = str(run.info.run_id)

    def log(self, values: Mapping[str, float], iteration: int) -> None:
        """See `Tracker`."""
        import mlflow

        mlflow.log_metrics(dict(values), step=iteration)

    def finish(self, outcome: str) -> None:
        """See `Tracker`."""
        import mlflow

        mlflow.end_run({"failed": "FAILED", "stopped": "KILLED"}.get(outcome, "FINISHED"))


#: By the name of the package, which is also that of the extra and of ``train.tracker``.
TRACKERS: dict[str, Callable[[Path, Mapping[str, Any], str | None], Tracker]] = {
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def check_trackers(text: str) -> list[str]:
    """Parse ``train.tracker``: a name, several separated by commas, or "" for none.

    Raises:
        UserError: a name is unknown, or a package is not installed.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"train.tracker={text}: {name!r} is none of {', '.join(TRACKERS)}")
        needed(name, name, f"train.tracker={name}")
    return names


class TrackedEvents:
    """Passes a run's events on to a tracker, beginning with its config.

    Args:
        name: one of ``TRACKERS``.
        folder: the run's ``train.output_dir``.
        events: receives the tracked run's id, for a resume.
    """

    def __init__(self, name: str, folder: Path, events: EventWriter) -> None:
        self.name = name
        self.folder = folder.absolute()
        self._events = events
        self._tracker: Tracker | None = None
        self._gone = False

    def __call__(self, event: Event) -> None:
        """Handle an event; on any failure, warn and stop using the tracker."""
        if self._gone:
            return
        try:
            self._take(event)
        except Exception as error:  # third-party code, and no reason to stop
            self._gone = True  # before the warning, which is an event too
            what = f"{type(error).__name__}: {error!s:.300}"
            logger.warning(
                "train.tracker=%s failed and is left out from here on: %s. Training goes on; run.jsonl has "
                "everything",
                self.name,
                what,
            )

    def _take(self, event: Event) -> None:
        kind = event["event"]
        if kind == "config":
            self._tracker = TRACKERS[self.name](self.folder, event["config"], self._id_before())
            self._events.write("tracker", name=self.name, id=self._tracker.id)
        elif self._tracker is None:
            return
        elif kind in ("step", "evaluation"):
            values = event["values" if kind == "step" else "results"]
            numbers = {name: as_number(value) for name, value in values.items()}
            known = {name: number for name, number in numbers.items() if number is not None}
            self._tracker.log(known, int(event.get("iteration", 0)))
        elif kind == "end":
            self._gone = True
            self._tracker.finish(str(event["outcome"]))

    def _id_before(self) -> str | None:
        """The id from an earlier start of the run being resumed."""
        found = [e for e in read_run(self.folder)[0] if e["event"] == "tracker"]
        ids = [str(e["id"]) for e in found if e.get("name") == self.name and e.get("id")]
        return ids[-1] if ids else None
