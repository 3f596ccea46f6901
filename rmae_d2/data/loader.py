"""Loaders whose every sample is a function of (seed, position in the training stream).

The stream is an endless sequence of positions p = 0, 1, 2, ...; epoch p // N shows each of the N
images once (or as often as repeat factors say, an epoch then having other than N positions), in an
order drawn from (seed, epoch), and all random choices for position p are drawn from (seed, p).
Optimizer step t takes positions t*B ... (t+1)*B - 1, whichever processes, accumulation steps and
workers share them. So a resumed run continues bit for bit, and other numbers of GPUs see the same
global batches.

Letters: N images, B images an optimizer step, W processes, r rank, A accumulation steps, m = B / (W
* A) images a micro-batch, t optimizer step, a accumulation step, p position.

What a batch is the mapper says: its ``collate`` makes one of m samples, in the worker, such as a
:class:`~rmae_d2.modeling.Batch`; of a mapper without, as Detectron2's are, it is their list.
"""

import atexit
import gc
import itertools
import logging
import multiprocessing.util
import os
import pickle
import random
import signal
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from ..errors import ImageReadError, UserError
from ..modeling.batch import Batch
from .images import MACHINE_ERRNOS
from .repeat_factors import RepeatedOrder, category_repeat_factors

logger = logging.getLogger(__name__)

Sample = dict[str, Any]
Mapper = Callable[[Sample], Sample | None]
AnyBatch = Batch | list[Sample]

#: How many images in a row may be unreadable, and how many a mapper may refuse by returning None.
MAX_UNREADABLE, MAX_REFUSED = 10, 1000

# Keeps the draws for orders and for samples apart.
_ORDER, _SAMPLE = 0, 1


@contextmanager
def seeded(*key: int) -> Iterator[np.random.SeedSequence]:
    """Seeds the global generators of Python, numpy and torch (CPU) from a key of non-negative ints.

    Outside of loader workers the generators continue afterwards where they were, so that loading in
    the main process leaves the model's randomness alone. Yields the seed sequence, for further
    draws.
    """
    sequence = np.random.SeedSequence(key)
    words = sequence.generate_state(8)
    in_worker = get_worker_info() is not None
    before = (
        None if in_worker else (random.getstate(), np.random.get_state(), torch.get_rng_state())
    )
    random.seed(words[:4].tobytes())
    np.random.seed(words[4:6])
    torch.default_generator.manual_seed(int(words[6]) << 32 | int(words[7]))
    try:
        yield sequence
    finally:
        if before is not None:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.set_rng_state(before[2])


def _check_seed(seed: int) -> int:
    if seed < 0:
        raise UserError(
            f"seed={seed} must be 0 or more: a loader's order is a function of its seed"
        )
    return seed


class StreamDataset(Dataset[Sample]):
    """The endless stream: ``dataset[p]`` is the sample of position p, for any p >= 0."""

    def __init__(
        self,
        dataset: Dataset[Sample],
        mapper: Mapper,
        seed: int,
        repeated: RepeatedOrder | None = None,
    ) -> None:
        """Sets the stream.

        Args:
            dataset: dataset dicts, one or more.
            mapper: any Detectron2 mapper; may return None to refuse an image, and have a ``collate``.
            seed: 0 or more.
            repeated: orders in which images appear more than once; None shows each once an epoch.
        """
        self._dataset = dataset
        self._mapper = PicklableWrapper(mapper)
        self.collate: Callable[[list[Sample]], AnyBatch] = getattr(mapper, "collate", list)
        self._seed = _check_seed(seed)
        self._repeated = repeated
        self.num_images: int = len(dataset)  # type: ignore[arg-type]
        self.size = repeated.length if repeated else self.num_images
        self._order: tuple[int, NDArray[np.int64]] | None = None  # the current epoch's, 8 N bytes

    def index(self, position: int) -> int:
        """The index of the image that stands at a position."""
        epoch, offset = divmod(position, self.size)
        if self._order is None or self._order[0] != epoch:
            generator = np.random.default_rng([self._seed, _ORDER, epoch])
            repeated = self._repeated
            order = repeated.draw(generator) if repeated else generator.permutation(self.size)
            self._order = (epoch, order)
        return int(self._order[1][offset])

    def __getitem__(self, position: int) -> Sample:
        """The sample of a position.

        An unreadable image is replaced by another, drawn from (seed, position, attempt). The sample
        then has a key ``skipped``, a list of (file, reason).

        Raises:
            UserError: the image and its replacements could not be read.
        """
        index = self.index(position)
        skipped: list[tuple[str, str]] = []
        for attempt in range(MAX_REFUSED):
            with seeded(self._seed, _SAMPLE, position, attempt) as sequence:
                if attempt:
                    index = int(
                        np.random.default_rng(sequence.spawn(1)[0]).integers(self.num_images)
                    )
                dataset_dict = self._dataset[index]
                try:
                    sample = self._mapper(dataset_dict)
                except (
                    ImageReadError,
                    SizeMismatchError,
                    OSError,
                    Image.DecompressionBombError,
                ) as error:
                    if isinstance(error, OSError) and error.errno in MACHINE_ERRNOS:
                        raise
                    skipped.append(_describe_skip(dataset_dict, index, error))
                    if len(skipped) == MAX_UNREADABLE:
                        break
                    continue
            if sample is not None:
                return {**sample, "skipped": skipped} if skipped else sample
        failures = "".join(f"\n  {file}: {reason}" for file, reason in skipped)
        raise UserError(
            f"no sample for position {position} of the stream: {len(skipped)} images could not be "
            f"read and {attempt + 1 - len(skipped)} were refused by the mapper{failures}"
        )


def _describe_skip(dataset_dict: Sample, index: int, error: Exception) -> tuple[str, str]:
    reason = (
        error.reason if isinstance(error, ImageReadError) else f"{type(error).__name__}: {error}"
    )
    return str(dataset_dict.get("file_name", f"image {index} of the data set")), reason


@dataclass(frozen=True)
class StreamBatchSampler:
    """The positions of one process's micro-batches, from optimizer step ``start_iter`` on, endless.

    At step t, accumulation step a, rank r gets t*B + (a*W + r)*m + j for j = 0 ... m - 1.

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
        """Images a micro-batch, m."""
        return self.total_batch_size // (self.world_size * self.grad_accum)

    def __iter__(self) -> Iterator[list[int]]:
        m = self.micro_batch_size
        for step in itertools.count(self.start_iter):
            for accumulation in range(self.grad_accum):
                share = accumulation * self.world_size + self.rank
                first = step * self.total_batch_size + share * m
                yield list(range(first, first + m))


class WorkerError(Exception):
    """The cause of an error that comes from a worker: its traceback there, as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class _CarriedError:
    """An error on its way from a worker to the main process, to be raised there as it was.

    PyTorch raises another error of the same class there, whose message is the worker's whole traceback; a
    message that says how to mend a file would drown in it.
    """

    def __init__(self, error: Exception) -> None:
        """Packs an error, inside the ``except`` that caught it.

        Raises:
            Exception: the error itself, where it does not survive pickling.
        """
        try:
            self._pickled = pickle.dumps(error)
            pickle.loads(self._pickled)
        except Exception:
            raise error from None
        self._traceback = "".join(traceback.format_exception(error))

    def reraise(self) -> None:
        """Raises the error, its cause a :class:`WorkerError`."""
        raise pickle.loads(self._pickled) from WorkerError(self._traceback)


class _Collated(Dataset[Any]):
    """What a DataLoader takes its batches from; a worker's error comes in place of its batch."""

    def __init__(self, dataset: "StreamDataset | _IndexedDataset") -> None:
        self._dataset = dataset

    def __getitems__(self, places: list[int]) -> AnyBatch | _CarriedError:
        try:
            return self._dataset.collate([self._dataset[place] for place in places])
        except Exception as error:
            if get_worker_info() is None:
                raise
            return _CarriedError(error)


def _as_it_is(batch: Any) -> Any:
    return batch


def _tensors(batch: Any) -> list[torch.Tensor]:
    """Those of a batch that are on a device."""
    if isinstance(batch, Batch):
        return [x for x in (batch.images, batch.regions) if x is not None]
    samples = batch if isinstance(batch, list) else []
    return [x for sample in samples for x in sample.values() if isinstance(x, torch.Tensor)]


def _on_device(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors there; what stands in for one as it is."""
    if isinstance(batch, Batch):
        return batch.to(device)
    if not isinstance(batch, list):
        return batch
    return [
        {k: v.to(device, non_blocking=True) if torch.is_tensor(v) else v for k, v in x.items()}
        for x in batch
    ]


class DevicePrefetcher(Iterator[Any]):
    """Copies one batch ahead, on a stream of its own, while the device computes.

    Copies overlap where batches come in pinned memory. On the CPU batches are only taken one ahead. An error
    that a loader hands over in place of a batch keeps its place.
    """

    def __init__(self, batches: Iterator[Any], device: torch.device) -> None:
        """Takes batches, and the device where their tensors are to be."""
        self._batches = batches
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ahead: list[Any] = []

    def _fetch(self) -> None:
        for batch in itertools.islice(self._batches, 1):
            with torch.cuda.stream(self._stream):
                self._ahead.append(_on_device(batch, self._device))

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
            for tensor in _tensors(batch):
                # Made on the copying stream: its memory may be given away only after the step has read it.
                tensor.record_stream(computing)
        self._fetch()
        return batch


class _Batches:
    """An iterator over a DataLoader of batches that surely ends its workers.

    Workers ignore SIGTERM, by which PyTorch and multiprocessing end a worker that did not listen,
    and at exit wait for it: so they are told in time, and killed where they still do not listen.
    """

    def __init__(
        self,
        dataset: "StreamDataset | _IndexedDataset",
        device: torch.device | None = None,
        **options: Any,
    ) -> None:
        self._pid = os.getpid()
        loader = DataLoader(
            _Collated(dataset),
            collate_fn=_as_it_is,
            worker_init_fn=_init_worker,
            generator=torch.Generator(),  # else each iterator draws from the model's generator
            **options,
        )
        with _signals_blocked():
            self._batches: Any = iter(loader)
        weak = weakref.ref(self)

        def close() -> None:
            if (batches := weak()) is not None:
                batches.close()

        # The main process runs atexit; one that multiprocessing started, its own finalizers only.
        atexit.register(close)
        self._close_at_exit = close
        multiprocessing.util.Finalize(self, close, exitpriority=100)
        # Last, for it may fail, and then the workers must have somebody to end them.
        self._ahead: Any = DevicePrefetcher(self._batches, device) if device else self._batches

    def __iter__(self) -> "_Batches":
        return self

    def __next__(self) -> Any:
        if self._batches is None:
            raise StopIteration
        batch = next(self._ahead)
        if isinstance(batch, _CarriedError):
            batch.reraise()
        return batch

    def close(self) -> None:
        """Ends the workers; no batch comes after it."""
        batches, self._batches, self._ahead = self._batches, None, None
        if batches is None or os.getpid() != self._pid:  # a fork of the owner has nothing to end
            return
        atexit.unregister(self._close_at_exit)
        workers = getattr(batches, "_workers", [])
        if workers:
            batches._shutdown_workers()  # deleting it does the same, unless a traceback holds it
        for worker in workers:
            if worker.is_alive():
                worker.kill()
                worker.join()

    def __del__(self) -> None:
        if hasattr(self, "_close_at_exit"):
            self.close()


# Sent to the process group these are for the main process, which saves and ends its workers.
_NOT_FOR_WORKERS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
]


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Processes started inside inherit the block, so that no signal finds them half set up."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_WORKERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _init_worker(_worker_id: int) -> None:
    for number in _NOT_FOR_WORKERS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    gc.freeze()  # what the fork brought along, finalizers included, is the main process's to collect
    if "cv2" in sys.modules:  # its thread pool does not survive a fork
        sys.modules["cv2"].setNumThreads(0)


class TrainLoader:
    """Endless iterable of this process's micro-batches of m samples.

    Attributes:
        start_iter: optimizer step that the next ``iter()`` begins with; set it when resuming.
        device: where stacked tensors go; None leaves them on the host.
        dataset_size: images in the data set.
        total_batch_size: B.
        grad_accum: A; A consecutive micro-batches make one optimizer step.
        micro_batch_size: m.
    """

    def __init__(self, stream: StreamDataset, sampler: StreamBatchSampler, **options: Any) -> None:
        """Joins a stream and the positions to take from it; options are the DataLoader's."""
        self._stream = stream
        self._sampler = sampler
        self._options = options
        self.dataset_size = stream.num_images
        self.total_batch_size = sampler.total_batch_size
        self.grad_accum = sampler.grad_accum
        self.micro_batch_size = sampler.micro_batch_size
        self.start_iter = sampler.start_iter
        self.device: torch.device | None = None

    def start(self, iteration: int, device: torch.device | None = None) -> "TrainLoader":
        """Sets ``start_iter`` and returns the loader: ``iter(loader.start(trainer.iter + 1))``.

        With a device the tensors of batches arrive there, copied one batch ahead.
        """
        self.start_iter = iteration
        self.device = device
        return self

    def preview(self, count: int) -> AnyBatch:
        """The first samples of the stream, loaded here and now: the same in every run, to look at."""
        return self._stream.collate([self._stream[position] for position in range(count)])

    def __iter__(self) -> Iterator[AnyBatch]:
        """A fresh iterator, with its own workers, that begins at optimizer step ``start_iter``."""
        positions = replace(self._sampler, start_iter=self.start_iter)
        # An endless sampler has no length, which DataLoader needs for len() only.
        return _Batches(self._stream, self.device, batch_sampler=positions, **self._options)


def _as_dataset(dataset: Sequence[Sample] | Dataset[Sample]) -> Dataset[Sample]:
    """A map-style data set; lists become one shared block of memory, as in Detectron2."""
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            "the stream needs a data set addressed by index, this one is an IterableDataset"
        )
    if len(dataset) == 0:  # type: ignore[arg-type]
        raise UserError("the data set is empty: there is nothing to load")
    return dataset if isinstance(dataset, Dataset) else DatasetFromList(list(dataset), copy=False)


def build_train_loader(
    dataset: Sequence[Sample] | Dataset[Sample],
    mapper: Mapper,
    total_batch_size: int,
    *,
    num_workers: int = 4,
    seed: int = 0,
    grad_accum: int = 1,
    start_iter: int = 0,
    prefetch_factor: int = 2,
    pin_memory: bool | None = None,
    repeat_threshold: float | None = None,
) -> TrainLoader:
    """The training loader, for pre-training and fine-tuning alike.

    Args:
        dataset: dataset dicts, or a map-style data set of them.
        mapper: any Detectron2 mapper.
        total_batch_size: B, images an optimizer step over all processes and accumulation steps.
        num_workers: worker processes of this process; 0 loads in the main process.
        seed: 0 or more; with the position it determines every sample.
        grad_accum: A.
        start_iter: first optimizer step.
        prefetch_factor: micro-batches that each worker prepares ahead.
        pin_memory: None pins where there is a CUDA device.
        repeat_threshold: images whose rarest class is in a smaller share of the images are repeated,
            see :func:`~rmae_d2.data.repeat_factors.category_repeat_factors`; None for no repeats.

    Raises:
        UserError: an empty data set, a negative seed, or a batch that does not divide.
        TypeError: an iterable data set.
    """
    data = _as_dataset(dataset)
    sampler = StreamBatchSampler(
        total_batch_size, comm.get_world_size(), comm.get_rank(), grad_accum, start_iter
    )
    repeated = None
    if repeat_threshold is not None:
        dicts = [dataset[i] for i in range(len(dataset))]  # type: ignore[arg-type]
        repeated = RepeatedOrder(category_repeat_factors(dicts, repeat_threshold))
        logger.info("repeat factors: %d images make epochs of %d", len(dicts), repeated.length)
    return TrainLoader(
        StreamDataset(data, mapper, seed, repeated),
        sampler,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None,
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
    )


class _IndexedDataset(Dataset[Sample]):
    """Images in their own order, each mapped with generators seeded by its index."""

    def __init__(self, dataset: Dataset[Sample], mapper: Mapper, seed: int) -> None:
        self._dataset = dataset
        self._mapper = PicklableWrapper(mapper)
        self.collate: Callable[[list[Sample]], AnyBatch] = getattr(mapper, "collate", list)
        self._seed = _check_seed(seed)

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Sample:
        with seeded(self._seed, _SAMPLE, index):
            sample = self._mapper(self._dataset[index])
        if sample is None:
            raise UserError(
                f"the mapper returned None for image {index}: evaluation needs every one"
            )
        return sample


class EvalLoader:
    """Finite iterable of this process's batches (``len()`` of them)."""

    def __init__(self, dataset: _IndexedDataset, batch_size: int, num_workers: int) -> None:
        """See :func:`build_eval_loader`."""
        self._dataset = dataset
        self._sampler = InferenceSampler(len(dataset))
        self._batch_size = batch_size
        self._num_workers = num_workers

    def __len__(self) -> int:
        return -(-len(self._sampler) // self._batch_size)

    def __iter__(self) -> Iterator[AnyBatch]:
        return _Batches(
            self._dataset,
            batch_size=self._batch_size,
            sampler=self._sampler,
            num_workers=self._num_workers,
        )


def build_eval_loader(
    dataset: Sequence[Sample] | Dataset[Sample],
    mapper: Mapper,
    *,
    batch_size: int = 1,
    num_workers: int = 4,
    seed: int = 0,
) -> EvalLoader:
    """The evaluation loader: every image once, in order, shared among processes as Detectron2 does.

    Crops and masks are functions of (seed, image index), so that evaluation losses can be compared.
    Serves Detectron2's ``inference_on_dataset`` as ``build_detection_test_loader`` does. Unreadable
    images raise.

    Args:
        dataset: dataset dicts, or a map-style data set of them.
        mapper: any Detectron2 mapper.
        batch_size: images a batch of one process; the last batch may be smaller.
        num_workers: worker processes of this process; 0 loads in the main process.
        seed: 0 or more.
    """
    data = _as_dataset(dataset)
    return EvalLoader(_IndexedDataset(data, mapper, seed), batch_size, num_workers)


class SkipCounter:
    """Counts the distinct images that a run could not read, and ends it when they are too many.

    Counts what this process meets. Over some epochs every process meets every bad image.
    """

    def __init__(
        self, dataset_size: int, limit_fraction: float = 0.01, min_images: int = 10
    ) -> None:
        """Sets the limit: ``limit_fraction`` of the data set, but at least ``min_images``."""
        self.limit = max(min_images, int(limit_fraction * dataset_size))
        self._dataset_size = dataset_size
        self._reasons: dict[str, str] = {}

    @property
    def count(self) -> int:
        """Distinct files skipped so far."""
        return len(self._reasons)

    @property
    def reasons(self) -> dict[str, str]:
        """Why each was, by its file."""
        return self._reasons

    def add(self, facts: Sequence[Sample]) -> None:
        """Reads ``skipped`` in what is known of images; warns of new files, later ever rarer."""
        for of_image in facts:
            for file, reason in of_image.get("skipped", ()):
                if file in self._reasons:
                    continue
                self._reasons[file] = reason
                if self.count <= 10 or self.count & (self.count - 1) == 0:
                    logger.warning(
                        "skipped %s: %s. Another image takes its place (%d of %d so far, limit %d)",
                        file,
                        reason,
                        self.count,
                        self._dataset_size,
                        self.limit,
                    )

    def check(self) -> None:
        """Call once an iteration.

        Raises:
            UserError: past the limit; names the first files and their reasons.
        """
        if self.count > self.limit:
            first = "".join(
                f"\n  {file}: {reason}" for file, reason in list(self._reasons.items())[:5]
            )
            raise UserError(
                f"{self.count} of {self._dataset_size} images could not be read, more than "
                f"{self.limit}. The first:{first}\n"
                f"Repair the files or take them out of the data set, then go on with --resume"
            )
