"""Starting one process a GPU, passing signals on to them, and saying in one line what went wrong."""

import argparse
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from detectron2.engine import launch
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from ..checkpoint import CheckpointError
from ..config import ConfigError
from ..data import (
    DatasetMissingError,
    ImageReadError,
    TooManySkippedError,
    UnreadableImagesError,
)
from ..data.datasets import AnnotationError
from ..evaluation import EvaluationError
from ..regions import StoreError
from .hooks import SaveOnSignal
from .trainer import NonFiniteError

#: What users can set right themselves: the message says how, a traceback would only hide it.
EXPECTED_ERRORS = (
    AnnotationError,
    CheckpointError,
    ConfigError,
    DatasetMissingError,
    EvaluationError,
    ImageReadError,
    NonFiniteError,
    StoreError,
    TooManySkippedError,
    UnreadableImagesError,
)

Main = Callable[[argparse.Namespace], Any]


def launch_training(main: Main, args: argparse.Namespace) -> None:
    """Detectron2's launcher; SIGTERM and SIGUSR1 reach the worker processes, which save and end.

    Args:
        main: run in every process.
        args: of Detectron2's ``default_argument_parser``.

    Raises:
        SystemExit: with the message of an expected error, the first of all processes.
    """
    if args.num_gpus * args.num_machines == 1:
        try:
            main(args)
        except EXPECTED_ERRORS as error:
            sys.exit(f"error: {error}")
        return
    for number in SaveOnSignal.SIGNALS:
        signal.signal(number, _forward)
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    try:
        launch(
            _run_worker,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(main, args, errors),
        )
    except (ProcessExitedException, ProcessRaisedException):
        if errors.empty():
            raise
        sys.exit(f"error: {errors.get()}")


def _run_worker(main: Main, args: argparse.Namespace, errors: Any) -> None:
    try:
        main(args)
    except EXPECTED_ERRORS as error:
        errors.put(str(error))
        sys.exit(1)


def _forward(number: int, frame: FrameType | None) -> None:
    for child in multiprocessing.active_children():
        if child.pid is not None:
            os.kill(child.pid, number)
