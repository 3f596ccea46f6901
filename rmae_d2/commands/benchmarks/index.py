"""Cost of packed shards as the number of images grows: indexes only, since no image is read."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np

from ...data.datasets.images_only import pretrain_dataset
from ...data.loader import StreamDataset
from ...packed import ImageColumns, PackedImages, shard_files
from ...regions import RegionStore, write_index
from ...regions.store.shards import (
    DIGEST_SIZE,
    ShardHeader,
    ShardIndex,
    encode_index,
)
from ...regions.store.tar_members import BLOCK, global_header, member_header
from ...tables import table

#: Photos of this size result in shards of one gigabyte.
IMAGES_PER_SHARD, IMAGE_BYTES, RECORD_BYTES = 10_000, 100_000, 13_000
#: Number of images looked up, in random order.
SAMPLES = 1000
HEADERS = [
    *("images", "on disk, B an image", "in memory, B", "mapped, B", "index.npy made, CPU s"),
    *("images opened, CPU s", "regions opened, CPU s", "a tenth held out, CPU s"),
    *("an image's dict, CPU us", "its record, CPU us", "order of an epoch, CPU s"),
]
T = TypeVar("T")


def run(args: argparse.Namespace) -> None:
    rows = []
    for count in args.images:
        with TemporaryDirectory(dir=args.folder) as folder:
            rows.append([count, *measured(Path(folder), count)])
    print(table(HEADERS, rows, digits=3, left=()))


def measured(folder: Path, count: int) -> list[float]:
    """Measures a row of the table, without its first cell."""
    generator = np.random.default_rng(0)
    places = generator.choice(count, min(SAMPLES, count), replace=False)
    write_shards(folder, count, places)
    merged, _ = _timed(lambda: write_index(folder))
    disk = sum(path.stat().st_size for path in folder.iterdir() if path.suffix != ".tar")
    opened, images = _timed(lambda: PackedImages(str(folder)))
    found, store = _timed(lambda: RegionStore(folder))
    held, _ = _timed(lambda: pretrain_dataset((), folder, held_out=True))
    keys = [key_of(place) for place in places.tolist()]
    looked, _ = _timed(lambda: [images[place] for place in places.tolist()])
    got, _ = _timed(lambda: [store.get(key) for key in keys])
    ordered, _ = _timed(lambda: StreamDataset(images, dict, seed=0).index(0))
    mapped = (folder / "index.npy").stat().st_size
    return [
        *(disk / count, images.num_bytes / count, mapped / count),
        *(merged, opened, found, held),
        *(1e6 * looked / len(places), 1e6 * got / len(places), ordered),
    ]


def key_of(number: int) -> str:
    """Returns an id as for a folder of photos."""
    return f"photos/{number // 1000:06d}/{number:09d}.jpg"


def write_shards(folder: Path, count: int, places: Any) -> None:
    """Writes shard indexes, and sparse tars of the stated length with records at some positions only."""
    num_shards = -(-count // IMAGES_PER_SHARD)
    shard_header = ShardHeader({"source": "none yet"}, num_shards)
    for number in range(num_shards):
        first = number * IMAGES_PER_SHARD
        n = min(IMAGES_PER_SHARD, count - first)
        keys = [key_of(first + row) for row in range(n)]
        start = len(global_header(shard_header.to_json(number)))
        image_room, record_room = (
            BLOCK - -size // BLOCK * BLOCK for size in (IMAGE_BYTES, RECORD_BYTES)
        )
        image_offsets = start + BLOCK + np.arange(n, dtype=np.uint64) * (image_room + record_room)
        offsets = image_offsets + np.uint64(image_room)
        size = start + n * (image_room + record_room) + 2 * BLOCK
        digests = np.zeros((n, DIGEST_SIZE), np.uint8)
        columns = ImageColumns(
            image_offsets,
            np.full(n, IMAGE_BYTES, np.uint64),
            np.full((n, 2), (480, 640), np.uint32),
            np.full(n, b"jpg", "S4"),
            np.zeros(n, bool),
        )
        index = ShardIndex(
            shard_header,
            "".join(keys).encode(),
            np.cumsum([len(key) for key in keys], dtype=np.uint64),
            offsets,
            np.full(n, RECORD_BYTES, np.uint64),
            *(digests, digests),
            size,
            columns,
        )
        tar, idx = (folder / name for name in shard_files(number))
        idx.write_bytes(encode_index(index, number))
        with tar.open("wb") as file:
            file.truncate(size)
            file.write(global_header(shard_header.to_json(number)))
            for row in places[(places >= first) & (places < first + n)] - first:
                file.seek(int(offsets[row]) - BLOCK)
                file.write(member_header(keys[row], RECORD_BYTES) + bytes(RECORD_BYTES))


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    """Returns CPU seconds, which other work on the machine affects little, and the result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result
