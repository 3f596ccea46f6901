"""Loaders whose every sample is a function of (seed, position in the training stream).

The stream is an endless sequence of positions p = 0, 1, 2, ...; epoch p // N shows each of the N images
once (or as often as repeat factors say, in which case an epoch does not have N positions), in an order drawn
from (seed, epoch), and all random choices for position p are drawn from (seed, p). Optimizer step t takes
positions t*B ... (t+1)*B - 1, however processes, accumulation steps and workers share them. So a resumed
run continues bit for bit, and other numbers of GPUs see the same global batches.

Letters: N images, B images per optimizer step, W processes, r rank, A accumulation steps, m = B / (W * A)
images per micro-batch, t optimizer step, a accumulation step, p position.

The mapper defines what a batch is: its ``collate`` combines m samples, in the worker, into e.g. a `Batch`;
for a mapper without one, such as Detectron2's, the batch is the list of samples.
"""

import atexit
import gc
import itertools
import logging
import multiprocessing.util
import pickle
import random
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
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
from ..packed import PackedImages
from ..photos.reading import sharing_photos
from ..remote import is_remote
from ..signals import SAVING, blocked
from .batch_sampler import StreamBatchSampler
from .encoded_images import EncodedImages, RamCache, free_memory
from .images import MACHINE_ERRNOS
from .repeat_factors import RepeatedOrder, category_repeat_factors

logger = logging.getLogger(__name__)

Sample = dict[str, Any]
Mapper = Callable[[Sample], Sample | None]
AnyBatch = Batch | list[Sample]

#: Number of images that each worker reads ahead if they are accessed over a network.
_READ_AHEAD = 8

#: Number of consecutive images that may be unreadable, or that a mapper may refuse by returning None.
MAX_UNREADABLE, MAX_REFUSED = 10, 1000
_UNREADABLE = (ImageReadError, SizeMismatchError, OSError, Image.DecompressionBombError)

# Separates the random draws for orders from those for samples.
_ORDER, _SAMPLE = 0, 1


@contextmanager
def seeded(*key: int) -> Iterator[np.random.SeedSequence]:
    """Seed the global generators of Python, numpy and torch (CPU) from a key of non-negative ints.

    Outside loader workers, the generators' previous states are restored afterwards, so that loading in the
    main process does not affect the model's randomness. Yields the seed sequence, for further draws.
    """
    sequence = np.random.SeedSequence(key)
    words = sequence.generate_state(8)
    before = None
    if get_worker_info() is None:
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()
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


class _Mapped(Dataset[Any]):
    """A mapped data set, one batch at a time; a worker's error is returned in place of its batch."""

    def __init__(
        self, dataset: Sequence[Sample] | Dataset[Sample], mapper: Mapper, seed: int
    ) -> None:
        if isinstance(dataset, IterableDataset):
            raise TypeError("the loader needs a data set addressed by index, no IterableDataset")
        self.num_images = len(dataset)  # type: ignore[arg-type]
        if self.num_images == 0:
            raise UserError("the data set is empty: there is nothing to load")
        if seed < 0:
            raise UserError(f"seed={seed} must be 0 or more: samples are a function of it")
        # Otherwise one shared block of memory, as in Detectron2; packed images have their own.
        if not isinstance(dataset, Dataset | PackedImages):
            dataset = DatasetFromList(list(dataset), copy=False)
        self._dataset = dataset
        self._mapper = PicklableWrapper(mapper)
        self._seed = seed
        self.collate: Callable[[list[Sample]], AnyBatch] = getattr(mapper, "collate", list)

    def __getitems__(self, places: list[int]) -> AnyBatch | ExceptionWithTraceback:
        try:
            return self.collate([self[place] for place in places])
        except Exception as error:
            # PyTorch would raise a new error of the same class whose message is a whole traceback, burying
            # advice on how to fix a file. Unpickled, ours is the error itself, with the traceback as cause.
            if get_worker_info() is None or not _survives_pickling(error):
                raise
            return ExceptionWithTraceback(error, error.__traceback__)


def _survives_pickling(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


class StreamDataset(_Mapped):
    """The endless stream: ``dataset[p]`` is the sample at position p, for any p >= 0."""

    def __init__(
        self,
        dataset: Sequence[Sample] | Dataset[Sample],
        mapper: Mapper,
        seed: int,
        repeated: RepeatedOrder | None = None,
        views_per_image: int = 1,
    ) -> None:
        """Takes any Detectron2 mapper; it may return None to refuse an image, and may have a ``collate``.

        With ``repeated``, images can appear more than once per epoch. ``views_per_image`` positions in a row
        show the same image.
        """
        super().__init__(dataset, mapper, seed)
        self._repeated = repeated
        self._views = views_per_image
        self._images = repeated.length if repeated else self.num_images
        self.size = self._images * views_per_image
        self._orders: dict[int, NDArray[np.int64]] = {}  # by epoch, 8 N bytes each
        self.encoded: EncodedImages | None = None

    def index(self, position: int) -> int:
        """The index of the image at a position."""
        epoch, offset = divmod(position // self._views, self._images)
        if epoch not in self._orders:
            # Reading ahead reaches the next epoch before the current one has ended.
            self._orders = {
                k: v for k, v in self._orders.items() if k == epoch - 1 and self.encoded
            }
            generator = np.random.default_rng([self._seed, _ORDER, epoch])
            repeated = self._repeated
            order = repeated.draw(generator) if repeated else generator.permutation(self._images)
            self._orders[epoch] = order
        return int(self._orders[epoch][offset])

    def dict_at(self, position: int) -> tuple[int, Sample]:
        """The image at a position: its index and dataset dict."""
        index = self.index(position)
        return index, self._dataset[index]

    def __getitems__(self, places: list[int]) -> AnyBatch | ExceptionWithTraceback:
        if self.encoded is not None:
            self.encoded.begin(places)
        return super().__getitems__(places)

    def __getitem__(self, position: int) -> Sample:
        """The sample at a position.

        An unreadable image is replaced by another, drawn from (seed, position, attempt). The sample
        then has a key ``skipped``, a list of (file, reason).

        Raises:
            UserError: neither the image nor its replacements could be read.
        """
        index = self.index(position)
        skipped: list[tuple[str, str]] = []
        for attempt in range(MAX_REFUSED):
            with seeded(self._seed, _SAMPLE, position, attempt) as sequence:
                if attempt:
                    generator = np.random.default_rng(sequence.spawn(1)[0])
                    index = int(generator.integers(self.num_images))
                dataset_dict = self._dataset[index]
                try:
                    encoded = self._encoded(index, dataset_dict, None if attempt else position)
                    with encoded, sharing_photos() if self._views > 1 else nullcontext():
                        sample = self._mapper(dataset_dict)
                except _UNREADABLE as error:
                    if isinstance(error, OSError) and error.errno in MACHINE_ERRNOS:
                        raise
                    file = str(dataset_dict.get("file_name", f"image {index} of the data set"))
                    reason = getattr(error, "reason", None)  # ImageReadError's
                    skipped.append((file, reason or f"{type(error).__name__}: {error}"))
                    if len(skipped) == MAX_UNREADABLE:
                        break
                    continue
            if sample is not None:
                return {**sample, "skipped": skipped} if skipped else sample
        raise UserError(
            f"no sample for position {position} of the stream: {len(skipped)} images could not be read and "
            f"{attempt + 1 - len(skipped)} were refused by the mapper{_listed(skipped)}"
        )

    def _encoded(
        self, index: int, dataset_dict: Sample, position: int | None
    ) -> AbstractContextManager[None]:
        if self.encoded is None:
            return nullcontext()
        return self.encoded.ready(index, dataset_dict, position)


def _listed(skipped: Iterable[tuple[str, str]]) -> str:
    return "".join(f"\n  {file}: {reason}" for file, reason in skipped)


def _batches(dataset: _Mapped, device: torch.device | None, **options: Any) -> Iterator[AnyBatch]:
    """Yield a DataLoader's batches; its workers end with the iterator, on an error, and with the process.

    Workers ignore SIGTERM, with which PyTorch and multiprocessing end workers that do not respond, waiting
    for them at exit: so they are told to stop in time, and killed if they still do not respond.
    """
    loader = DataLoader(
        dataset,
        collate_fn=_as_it_is,
        worker_init_fn=_init_worker,
        generator=torch.Generator(),  # otherwise each iterator draws from the model's generator
        **options,
    )
    with blocked(SAVING):
        batches = iter(loader)
    # The main process runs atexit; one started by multiprocessing runs only its own finalizers.
    end = multiprocessing.util.Finalize(None, _end_workers, (batches,), exitpriority=100)
    atexit.register(end)
    try:
        for batch in prefetched(batches, device) if device else batches:
            if isinstance(batch, Exception):
                raise batch
            yield batch
    finally:
        atexit.unregister(end)
        end()


def _as_it_is(batch: Any) -> Any:
    return batch


def _end_workers(batches: Any) -> None:
    workers = getattr(batches, "_workers", ())
    if workers:
        batches._shutdown_workers()  # deleting it does the same, unless a traceback holds it
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join()


def prefetched(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Move batches to a device: one is copied ahead, on its own stream, while the device computes.

    Copies overlap with computation if batches are in pinned memory. On the CPU, batches are only fetched one
    ahead. An error in place of a batch stays in its place.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    ready = None
    for batch in itertools.chain(batches, [None]):
        if stream is not None:
            computing = torch.cuda.current_stream(device)
            computing.wait_stream(stream)
            # The next copy may reuse the memory of a batch that a queued step has not read yet.
            stream.wait_stream(computing)
        with torch.cuda.stream(stream):
            copied = _on_device(batch, device)
        if ready is not None:
            yield ready
        ready = copied


def _on_device(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Batch):
        return batch.to(device)
    if not isinstance(batch, list):  # an error, or none
        return batch
    return [
        {k: v.to(device, non_blocking=True) if torch.is_tensor(v) else v for k, v in x.items()}
        for x in batch
    ]


def _init_worker(_worker_id: int) -> None:
    for number in SAVING:  # sent to the process group, but meant for the main process
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    gc.freeze()  # objects inherited by the fork, finalizers included, are the main process's to collect
    if "cv2" in sys.modules:  # its thread pool does not survive a fork
        sys.modules["cv2"].setNumThreads(0)


class TrainLoader:
    """Endless iterable of this process's micro-batches of m samples.

    Attributes:
        dataset_size: number of images in the data set.
        epoch_size: number of positions in an epoch.
        total_batch_size: B.
        micro_batch_size: m.
        cache: cache of encoded images; None for no cache.
    """

    def __init__(
        self,
        stream: StreamDataset,
        sampler: StreamBatchSampler,
        cache: RamCache | None = None,
        **options: Any,
    ) -> None:
        """Combines a stream and the positions to take from it; options are the DataLoader's."""
        self._stream, self._sampler, self._options = stream, sampler, options
        self.cache = cache
        self.dataset_size, self.epoch_size = stream.num_images, stream.size
        self.total_batch_size = sampler.total_batch_size
        self.micro_batch_size = sampler.micro_batch_size

    def start(self, iteration: int, device: torch.device | None = None) -> Iterator[AnyBatch]:
        """A new iterator, with its own workers, that begins at an optimizer step.

        With a device, batches are moved there, one batch ahead.
        """
        positions = replace(self._sampler, start_iter=iteration)
        # An endless sampler has no length, which DataLoader needs only for len().
        return _batches(self._stream, device, batch_sampler=positions, **self._options)

    def __iter__(self) -> Iterator[AnyBatch]:
        return self.start(0)

    def preview(self, count: int) -> AnyBatch:
        """Load the first samples of the stream in this process: the same in every run, for display."""
        return self._stream.collate([self._stream[position] for position in range(count)])


def build_train_loader(
    dataset: Sequence[Sample] | Dataset[Sample],
    mapper: Mapper,
    total_batch_size: int,
    *,
    num_workers: int = 4,
    seed: int = 0,
    grad_accum: int = 1,
    prefetch_factor: int = 2,
    pin_memory: bool | None = None,
    repeat_threshold: float | None = None,
    cache: str | None = None,
    cache_bytes: int | None = None,
    read_ahead: int | None = None,
    views_per_image: int = 1,
) -> TrainLoader:
    """Build the training loader, for pre-training and fine-tuning alike.

    Args:
        dataset: dataset dicts, or a map-style data set of them.
        mapper: any Detectron2 mapper.
        total_batch_size: B, images per optimizer step over all processes and accumulation steps.
        num_workers: worker processes of this process; 0 loads in the main process.
        seed: 0 or more; together with the position it determines every sample.
        grad_accum: A; A consecutive micro-batches make one optimizer step.
        prefetch_factor: micro-batches that each worker prepares ahead.
        pin_memory: None pins memory if there is a CUDA device.
        repeat_threshold: repeat images whose rarest class occurs in a smaller fraction of the images,
            see `category_repeat_factors`; None for no repeats.
        cache: ``ram`` keeps encoded images in memory once read, for all workers of this process; None leaves
            caching to the system.
        cache_bytes: largest size of the cache; None for half of the free memory, divided by the number of
            the run's processes on this machine.
        read_ahead: images that each worker reads while it decodes others, with as many threads; None for 8
            if images are accessed over a network and 0 for files.
        views_per_image: crops that are taken of an image in a row, which a mapper that opens images with
            `open_photo` decodes only once, in full; all are in one batch. An epoch has as many times more
            positions.

    Raises:
        UserError: the data set is empty, the seed negative, the batch not divisible, by ``views_per_image``
            either, or the cache unknown.
        TypeError: the data set is iterable.
    """
    world, rank = comm.get_world_size(), comm.get_rank()
    sampler = StreamBatchSampler(total_batch_size, world, rank, grad_accum)
    if views_per_image < 1 or sampler.micro_batch_size % views_per_image:
        raise UserError(
            f"views_per_image={views_per_image} does not divide the {sampler.micro_batch_size} images that a "
            "process takes at once: set another dataloader.train.views_per_image or total_batch_size"
        )
    repeated = None
    if repeat_threshold is not None:
        dicts = [dataset[i] for i in range(len(dataset))]  # type: ignore[arg-type]
        repeated = RepeatedOrder(category_repeat_factors(dicts, repeat_threshold))
        logger.info("repeat factors: %d images make epochs of %d", len(dicts), repeated.length)
    stream = StreamDataset(dataset, mapper, seed, repeated, views_per_image)
    if read_ahead is None:
        read_ahead = _READ_AHEAD if is_remote(str(dataset[0].get("file_name"))) else 0
    kept = _ram_cache(cache, stream.num_images, cache_bytes)
    if kept is not None or read_ahead:
        stream.encoded = EncodedImages(stream.dict_at, sampler.following, kept, read_ahead)
    return TrainLoader(
        stream,
        sampler,
        kept,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None,
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
    )


def _ram_cache(cache: str | None, images: int, limit: int | None) -> RamCache | None:
    if cache is None:
        return None
    if cache != "ram":
        raise UserError(f"cache={cache} must be ram, or left out")
    if limit is None:
        limit = free_memory() // 2 // comm.get_local_size()
    logger.info("encoded images are kept in memory, up to %.1f GiB per process", limit / 2**30)
    return RamCache(images, limit)


class _IndexedDataset(_Mapped):
    """Images in their own order, each mapped with generators seeded by its index."""

    def __getitem__(self, index: int) -> Sample:
        with seeded(self._seed, _SAMPLE, index):
            sample = self._mapper(self._dataset[index])
        if sample is None:
            raise UserError(
                f"the mapper returned None for image {index}: evaluation needs every one"
            )
        return sample


class EvalLoader:
    """Finite iterable of this process's batches (``len()`` of them); see `build_eval_loader`."""

    def __init__(self, dataset: _IndexedDataset, batch_size: int, num_workers: int) -> None:
        self._dataset = dataset
        self._sampler = InferenceSampler(dataset.num_images)
        self._options = {"batch_size": batch_size, "num_workers": num_workers}

    def __len__(self) -> int:
        return -(-len(self._sampler) // self._options["batch_size"])

    def __iter__(self) -> Iterator[AnyBatch]:
        return _batches(self._dataset, None, sampler=self._sampler, **self._options)


def build_eval_loader(
    dataset: Sequence[Sample] | Dataset[Sample],
    mapper: Mapper,
    *,
    batch_size: int = 1,
    num_workers: int = 4,
    seed: int = 0,
) -> EvalLoader:
    """Build the evaluation loader: every image once, in order, distributed over processes as in Detectron2.

    Crops and masks are functions of (seed, image index), so that evaluation losses are comparable. It can be
    passed to Detectron2's ``inference_on_dataset`` like a loader from ``build_detection_test_loader``.
    Unreadable images raise an error.

    Args:
        dataset: dataset dicts, or a map-style data set of them.
        mapper: any Detectron2 mapper.
        batch_size: images per batch and process; the last batch may be smaller.
        num_workers: worker processes of this process; 0 loads in the main process.
        seed: 0 or more.
    """
    return EvalLoader(_IndexedDataset(dataset, mapper, seed), batch_size, num_workers)


class SkipCounter:
    """Counts the distinct images that this process could not read, and ends the run if there are too many.

    Over several epochs, every process encounters every bad image.
    """

    def __init__(
        self, dataset_size: int, limit_fraction: float = 0.01, min_images: int = 10
    ) -> None:
        """Sets the limit: ``limit_fraction`` of the data set, but at least ``min_images``."""
        self.limit = max(min_images, int(limit_fraction * dataset_size))
        self._dataset_size = dataset_size
        self.reasons: dict[str, str] = {}  #: by file

    @property
    def count(self) -> int:
        """Distinct files skipped so far."""
        return len(self.reasons)

    def add(self, facts: Sequence[Sample]) -> None:
        """Record ``skipped`` in images' facts; warn about new files, with decreasing frequency."""
        for file, reason in (skip for of_image in facts for skip in of_image.get("skipped", ())):
            if file in self.reasons:
                continue
            self.reasons[file] = reason
            if self.count <= 10 or self.count & (self.count - 1) == 0:
                logger.warning(
                    "skipped %s: %s. Another image takes its place (%d of %d so far, limit %d)",
                    *(file, reason, self.count, self._dataset_size, self.limit),
                )

    def check(self) -> None:
        """Check the limit; call it once per iteration.

        Raises:
            UserError: the limit is exceeded; names the first files and their reasons.
        """
        if self.count > self.limit:
            raise UserError(
                f"{self.count} of {self._dataset_size} images could not be read, more than {self.limit}. The "
                f"first:{_listed(list(self.reasons.items())[:5])}\nRepair the files or take them out of the "
                "data set, then go on with --resume"
            )
