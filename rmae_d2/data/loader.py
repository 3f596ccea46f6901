"""Loaders whose every sample is a function of (seed, position in the training stream).

The stream is an endless sequence of positions p = 0, 1, 2, ...; epoch p // N shows each of the N images
once (or as often as repeat factors say, an epoch then having other than N positions), in an order drawn from
(seed, epoch), and all random choices for position p are drawn from (seed, p). Optimizer step t takes
positions t*B ... (t+1)*B - 1, whichever processes, accumulation steps and workers share them. So a resumed
run continues bit for bit, and other numbers of GPUs see the same global batches.

Letters: N images, B images an optimizer step, W processes, r rank, A accumulation steps, m = B / (W * A)
images per micro-batch, t optimizer step, a accumulation step, p position.

What a batch is the mapper says: its ``collate`` makes one of m samples, in the worker, such as a
`Batch`; of a mapper without, as Detectron2's are, it is their list.
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

#: Images that each worker reads ahead where they lie at the other end of a network.
_READ_AHEAD = 8

#: How many images in a row may be unreadable, and how many a mapper may refuse by returning None.
MAX_UNREADABLE, MAX_REFUSED = 10, 1000
_UNREADABLE = (ImageReadError, SizeMismatchError, OSError, Image.DecompressionBombError)

# Keeps the draws for orders and for samples apart.
_ORDER, _SAMPLE = 0, 1


@contextmanager
def seeded(*key: int) -> Iterator[np.random.SeedSequence]:
    """Seeds the global generators of Python, numpy and torch (CPU) from a key of non-negative ints.

    Outside of loader workers the generators continue afterwards where they were, so that loading in the main
    process leaves the model's randomness alone. Yields the seed sequence, for further draws.
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
    """A data set through a mapper, a batch at a time; a worker's error comes in place of its batch."""

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
        # Else one shared block of memory, as in Detectron2; packed images have theirs.
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
            # PyTorch raises another of its class, in whose message, a whole traceback, one that says how to
            # mend a file would drown. Unpickled, ours is the error itself, its cause the traceback.
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
    """The endless stream: ``dataset[p]`` is the sample of position p, for any p >= 0."""

    def __init__(
        self,
        dataset: Sequence[Sample] | Dataset[Sample],
        mapper: Mapper,
        seed: int,
        repeated: RepeatedOrder | None = None,
    ) -> None:
        """Takes any Detectron2 mapper; it may return None to refuse an image, and have a ``collate``.

        With ``repeated`` orders images appear more than once an epoch.
        """
        super().__init__(dataset, mapper, seed)
        self._repeated = repeated
        self.size = repeated.length if repeated else self.num_images
        self._orders: dict[int, NDArray[np.int64]] = {}  # of an epoch, 8 N bytes
        self.encoded: EncodedImages | None = None

    def index(self, position: int) -> int:
        """The index of the image that stands at a position."""
        epoch, offset = divmod(position, self.size)
        if epoch not in self._orders:
            # Reading ahead meets the next epoch while this one goes on.
            self._orders = {
                k: v for k, v in self._orders.items() if k == epoch - 1 and self.encoded
            }
            generator = np.random.default_rng([self._seed, _ORDER, epoch])
            repeated = self._repeated
            order = repeated.draw(generator) if repeated else generator.permutation(self.size)
            self._orders[epoch] = order
        return int(self._orders[epoch][offset])

    def dict_at(self, position: int) -> tuple[int, Sample]:
        """The image that stands at a position: its index, and what the data set says of it."""
        index = self.index(position)
        return index, self._dataset[index]

    def __getitems__(self, places: list[int]) -> AnyBatch | ExceptionWithTraceback:
        if self.encoded is not None:
            self.encoded.begin(places)
        return super().__getitems__(places)

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
                    generator = np.random.default_rng(sequence.spawn(1)[0])
                    index = int(generator.integers(self.num_images))
                dataset_dict = self._dataset[index]
                try:
                    with self._encoded(index, dataset_dict, None if attempt else position):
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
    """A DataLoader's batches; its workers end with the iterator, with an error, and with the process.

    Workers ignore SIGTERM, by which PyTorch and multiprocessing end a worker that did not listen, and at exit
    wait for it: so they are told in time, and killed where they still do not listen.
    """
    loader = DataLoader(
        dataset,
        collate_fn=_as_it_is,
        worker_init_fn=_init_worker,
        generator=torch.Generator(),  # else each iterator draws from the model's generator
        **options,
    )
    with blocked(SAVING):
        batches = iter(loader)
    # The main process runs atexit; one that multiprocessing started, its own finalizers only.
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
    """Batches on a device: one is copied ahead, on a stream of its own, while the device computes.

    Copies overlap where batches come in pinned memory. On the CPU batches are only taken one ahead. An error
    in place of a batch keeps it.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    ready = None
    for batch in itertools.chain(batches, [None]):
        if stream is not None:
            computing = torch.cuda.current_stream(device)
            computing.wait_stream(stream)
            # The next copy may get the memory of a batch that a step, though queued, has not read yet.
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
    for number in SAVING:  # sent to the process group, they are for the main process
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    gc.freeze()  # what the fork brought along, finalizers included, is the main process's to collect
    if "cv2" in sys.modules:  # its thread pool does not survive a fork
        sys.modules["cv2"].setNumThreads(0)


class TrainLoader:
    """Endless iterable of this process's micro-batches of m samples.

    Attributes:
        dataset_size: images in the data set.
        epoch_size: positions of an epoch.
        total_batch_size: B.
        micro_batch_size: m.
        cache: of encoded images; None for none.
    """

    def __init__(
        self,
        stream: StreamDataset,
        sampler: StreamBatchSampler,
        cache: RamCache | None = None,
        **options: Any,
    ) -> None:
        """Joins a stream and the positions to take from it; options are the DataLoader's."""
        self._stream, self._sampler, self._options = stream, sampler, options
        self.cache = cache
        self.dataset_size, self.epoch_size = stream.num_images, stream.size
        self.total_batch_size = sampler.total_batch_size
        self.micro_batch_size = sampler.micro_batch_size

    def start(self, iteration: int, device: torch.device | None = None) -> Iterator[AnyBatch]:
        """A fresh iterator, with its own workers, that begins at an optimizer step.

        With a device the tensors of batches arrive there, copied one batch ahead.
        """
        positions = replace(self._sampler, start_iter=iteration)
        # An endless sampler has no length, which DataLoader needs for len() only.
        return _batches(self._stream, device, batch_sampler=positions, **self._options)

    def __iter__(self) -> Iterator[AnyBatch]:
        return self.start(0)

    def preview(self, count: int) -> AnyBatch:
        """The first samples of the stream, loaded here and now: the same in every run, to look at."""
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
) -> TrainLoader:
    """The training loader, for pre-training and fine-tuning alike.

    Args:
        dataset: dataset dicts, or a map-style data set of them.
        mapper: any Detectron2 mapper.
        total_batch_size: B, images an optimizer step over all processes and accumulation steps.
        num_workers: worker processes of this process; 0 loads in the main process.
        seed: 0 or more; with the position it determines every sample.
        grad_accum: A; A consecutive micro-batches make one optimizer step.
        prefetch_factor: micro-batches that each worker prepares ahead.
        pin_memory: None pins where there is a CUDA device.
        repeat_threshold: images whose rarest class is in a smaller share of the images are repeated,
            see `category_repeat_factors`; None for no repeats.
        cache: ``ram`` keeps encoded images in memory from their first reading on, for all workers of this
            process; None leaves that to the system.
        cache_bytes: of them at most; None for half of the memory that is free, divided by the run's processes
            on this machine.
        read_ahead: images that each worker reads while it decodes others, with as many threads; None for 8
            where images lie at the other end of a network, 0 of files.

    Raises:
        UserError: an empty data set, a negative seed, a batch that does not divide, or another cache.
        TypeError: an iterable data set.
    """
    world, rank = comm.get_world_size(), comm.get_rank()
    sampler = StreamBatchSampler(total_batch_size, world, rank, grad_accum)
    repeated = None
    if repeat_threshold is not None:
        dicts = [dataset[i] for i in range(len(dataset))]  # type: ignore[arg-type]
        repeated = RepeatedOrder(category_repeat_factors(dicts, repeat_threshold))
        logger.info("repeat factors: %d images make epochs of %d", len(dicts), repeated.length)
    stream = StreamDataset(dataset, mapper, seed, repeated)
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
    """The evaluation loader: every image once, in order, shared among processes as Detectron2 does.

    Crops and masks are functions of (seed, image index), so that evaluation losses can be compared. Serves
    Detectron2's ``inference_on_dataset`` as ``build_detection_test_loader`` does. Unreadable images raise.

    Args:
        dataset: dataset dicts, or a map-style data set of them.
        mapper: any Detectron2 mapper.
        batch_size: images per batch of one process; the last batch may be smaller.
        num_workers: worker processes of this process; 0 loads in the main process.
        seed: 0 or more.
    """
    return EvalLoader(_IndexedDataset(dataset, mapper, seed), batch_size, num_workers)


class SkipCounter:
    """Counts the distinct images that this process could not read, and ends the run when they are too many.

    Over some epochs every process meets every bad image.
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
        """Reads ``skipped`` in what is known of images; warns of new files, later ever rarer."""
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
        """Call once an iteration.

        Raises:
            UserError: past the limit; names the first files and their reasons.
        """
        if self.count > self.limit:
            raise UserError(
                f"{self.count} of {self._dataset_size} images could not be read, more than {self.limit}. The "
                f"first:{_listed(list(self.reasons.items())[:5])}\nRepair the files or take them out of the "
                "data set, then go on with --resume"
            )
