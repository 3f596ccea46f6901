"""Implements `rmae-d2 embed`: features of photos as one Parquet table, in input order."""

import hashlib
import json
import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import __version__
from ..checkpoint import local_path
from ..checkpoint.positions import square_grid
from ..data import read_image
from ..errors import ImageReadError, UserError
from ..extras import needed
from ..files import atomic_file, make_folder
from ..modeling.block_features import block_numbers, encoder_of
from ..modeling.patches import grid_of
from ..photos.inputs import InputImage, list_inputs
from .features import as_batch, features
from .pretrained import load

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_REPORTS = 10.0
_BATCHES_PER_PART = 16
_MOST_READERS = 8
_FACTS = b"rmae_d2"  # key in a table's metadata


def embed_files(
    given: Sequence[str],
    output: Path,
    weights: str,
    *,
    patches: bool = False,
    layer: int = -1,
    size: Sequence[int] | None = None,
    normalization: str | None = None,
    batch_size: int = 64,
    image_root: str | None = None,
    device: str = "auto",
) -> None:
    """Writes one row per image: its id, file, size in pixels and features.

    ``features`` float32 (D,) is the mean of the patches after a block and the final norm, without the cls
    token; ``patches`` float16 (Gh * Gw * D,) are the patches themselves, in raster order. The table's
    metadata records how they were made, under ``rmae_d2``, in JSON.

    During the run, every 16 batches become a file of their own in ``OUTPUT.parts``. After a kill, the same
    command resumes from these. Unreadable images are skipped, named and counted.

    The arguments are the options of ``rmae-d2 embed``.

    Raises:
        UserError: if pyarrow or any input is unusable, no image can be read, or the disk is full.
    """
    pq = _parquet()
    images = list_inputs(given, image_root)
    model = load(weights, device=device)
    net: Any = encoder_of(model)
    high, wide = _size(net, size)
    grid = grid_of((high, wide), int(net.patch_size))
    block_numbers([layer], len(net.blocks))  # fail now, not in the first batch
    facts = {
        "rmae_d2": __version__,
        "weights": weights,
        "size": [high, wide],
        "grid": [*grid],
        "layer": layer,
        "normalization": normalization,
    }
    origin: Any = model.origin
    stat = local_path(origin.weights).stat()
    listed = json.dumps([[image.image_id, image.path] for image in images])
    job = {
        **facts,
        "patches": patches,
        "batch_size": batch_size,
        "weights_written": [stat.st_size, stat.st_mtime_ns],
        "images": hashlib.sha256(listed.encode()).hexdigest(),
    }
    folder = output.parent / f"{output.name}.parts"
    step = batch_size * _BATCHES_PER_PART
    parts = {folder / f"{k:09}.parquet": images[k : k + step] for k in range(0, len(images), step)}
    done = [part for part in parts if _facts(pq, part).get("job") == job]
    if done:
        logger.info("going on from %s, where %d of %d parts are", folder, len(done), len(parts))
    begin = reported = time.monotonic()
    with ThreadPoolExecutor(min(_MOST_READERS, os.cpu_count() or 1)) as pool:
        for part, chunk in parts.items():
            if part in done:
                continue
            columns = _Columns(ids_are_numbers=all(isinstance(i.image_id, int) for i in images))
            for known, pixels in _batches(pool, chunk, (high, wide), batch_size, columns.skipped):
                (found,) = features(model, pixels, [layer], normalization=normalization)
                columns.add(known, found.patches, patches)
            make_folder(folder)
            with atomic_file(part) as file:
                pq.write_table(columns.table({"job": job, "skipped": columns.skipped}), file)
            if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
                reported = time.monotonic()
                logger.info(
                    "%d of %d images", list(parts).index(part) * step + len(chunk), len(images)
                )
    skipped = [text for part in parts for text in _facts(pq, part)["skipped"]]
    if len(skipped) == len(images):
        shutil.rmtree(folder)
        raise UserError(f"none of the {len(images)} images can be read, such as {skipped[0]}")
    _join(pq, list(parts), output, facts)
    shutil.rmtree(folder)
    if skipped:
        logger.warning("skipped %d of %d images, named above", len(skipped), len(images))
    seconds = time.monotonic() - begin
    logger.info("%d images in %.1f s: %s", len(images) - len(skipped), seconds, output.resolve())


def _parquet() -> Any:
    return needed("pyarrow.parquet", "embed", "a table of features")


def _size(net: Any, size: Sequence[int] | None) -> tuple[int, int]:
    """Returns the (H, W) that images are resized to: as given, or the position embedding's image size."""
    if size is not None:
        return size[0], size[-1]
    if hasattr(net, "img_size"):
        return net.img_size[0], net.img_size[1]
    found = None if net.pos_embed is None else square_grid(net.pos_embed)
    if found is None:
        raise UserError("a ViT whose image size is not known: give --size")
    return found[0][0] * net.patch_size, found[0][1] * net.patch_size


def _batches(
    pool: ThreadPoolExecutor,
    images: Sequence[InputImage],
    size: tuple[int, int],
    batch_size: int,
    skipped: list[str],
) -> Iterator[tuple[list[tuple[InputImage, int, int]], Tensor]]:
    """Yields images with height and width, and their pixels (B, 3, H, W); skips unreadable ones."""
    known: list[tuple[InputImage, int, int]] = []
    batch: list[Tensor] = []
    for image, reading in _read_ahead(pool, images, size, 2 * batch_size):
        try:
            height, width, pixels = reading.result()
        except ImageReadError as error:
            skipped.append(f"{image.path}: {error.reason}")
            logger.warning("skipped %s", skipped[-1])
            continue
        known.append((image, height, width))
        batch.append(pixels)
        if len(batch) == batch_size:
            yield known, torch.cat(batch)
            known, batch = [], []
    if batch:
        yield known, torch.cat(batch)


def _read_ahead(
    pool: ThreadPoolExecutor, images: Sequence[InputImage], size: tuple[int, int], count: int
) -> Iterator[tuple[InputImage, Future[tuple[int, int, Tensor]]]]:
    """Yields images being read, in order, reading at most ``count`` ahead."""
    waiting: deque[tuple[InputImage, Future[tuple[int, int, Tensor]]]] = deque()
    for image in images:
        waiting.append((image, pool.submit(_read, image.path, size)))
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def _read(path: str, size: tuple[int, int]) -> tuple[int, int, Tensor]:
    pixels = read_image(path)
    return pixels.shape[0], pixels.shape[1], as_batch(pixels, size)


class _Columns:
    """Collects the columns of one part of the table."""

    def __init__(self, ids_are_numbers: bool) -> None:
        self.skipped: list[str] = []
        self._ids_are_numbers = ids_are_numbers
        self._images: list[tuple[InputImage, int, int]] = []
        self._features: list[NDArray[np.float32]] = []
        self._patches: list[NDArray[np.float16]] = []

    def add(
        self, known: Sequence[tuple[InputImage, int, int]], maps_BDGG: Tensor, patches: bool
    ) -> None:
        self._images += known
        self._features.append(maps_BDGG.mean(dim=(2, 3)).float().cpu().numpy())
        if patches:
            self._patches.append(maps_BDGG.permute(0, 2, 3, 1).flatten(1).half().cpu().numpy())

    def table(self, facts: dict[str, Any]) -> Any:
        """Builds a pyarrow table."""
        import pyarrow as pa

        ids = [image.image_id for image, _, _ in self._images]
        columns = {
            "image_id": pa.array(ids if self._ids_are_numbers else map(str, ids)),
            "file_name": pa.array([image.path for image, _, _ in self._images]),
            "height": pa.array([height for _, height, _ in self._images], pa.int32()),
            "width": pa.array([width for _, _, width in self._images], pa.int32()),
        }
        for name, values in (("features", self._features), ("patches", self._patches)):
            if values:
                rows = np.concatenate(values)
                flat = pa.array(rows.reshape(-1))
                columns[name] = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
        return pa.table(columns, metadata={_FACTS: json.dumps(facts)})


def _facts(pq: Any, part: Path) -> dict[str, Any]:
    """Reads a part's metadata; empty if the part is missing or incomplete."""
    try:
        found = json.loads(pq.read_schema(part).metadata[_FACTS])
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ):  # pyarrow's errors are OSErrors and ValueErrors
        return {}
    return found if isinstance(found, dict) else {}


def _join(pq: Any, parts: Sequence[Path], output: Path, facts: dict[str, Any]) -> None:
    """Joins the parts, one row group each; parts with only unreadable images have none."""
    full = [part for part in parts if pq.read_metadata(part).num_rows]
    schema = pq.read_schema(full[0]).with_metadata({_FACTS: json.dumps(facts)})
    with atomic_file(output) as file, pq.ParquetWriter(file, schema) as writer:
        for part in full:
            writer.write_table(pq.read_table(part).replace_schema_metadata(schema.metadata))
