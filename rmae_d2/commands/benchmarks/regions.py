"""Regions: FH's time and memory, records, and what COCO and ImageNet cost."""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from PIL import Image

from ...data import RandomResizedCrop, read_image
from ...data.images import label_indices
from ...regions import EncodedRecord, RegionRecord
from ...regions.sources.felzenszwalb import felzenszwalb
from .common import (
    SCALES,
    in_fresh_process,
    peak_bytes,
    photographs,
    race,
    table,
)


def run(args: argparse.Namespace) -> None:
    """FH against scikit-image; records against npy; an extrapolation to COCO and ImageNet."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = {
        "640x480, 3 scales": ((640, 480), SCALES),
        "640x480, 1 scale": ((640, 480), (1000,)),
        "500x375, 3 scales": ((500, 375), SCALES),
        "500x375, 1 scale": ((500, 375), (1000,)),
    }
    rows, spent, stored = [], {}, {}
    for name, (size, scales) in settings.items():
        photos = photographs(args, size)
        images = [np.asarray(photo) for photo in photos]
        kinds = ("scikit-image", "numba")
        best = race(
            {kind: partial(segment_with, kind, images, scales) for kind in kinds}, args.repeat
        )
        theirs, ours = (segment_with(kind, images, scales) for kind in kinds)
        same = sum(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
        slow, quick = (best[kind] / len(images) for kind in kinds)
        rows.append(
            f"{name} | {1e3 * slow:.0f} | {1e3 * quick:.1f} | {slow / quick:.1f} | {same} of {len(images)}"
        )
        records = [RegionRecord.from_labels(labels) for labels in ours]
        spent[name] = (quick, slow)
        stored[name] = (photos, records)
    print(f"{len(images)} photographs, one thread, minimum of {args.repeat}")
    table("FH | scikit-image ms | numba ms | ratio | same partition", rows)
    memory = {kind: in_fresh_process(peak_bytes_a_pixel, kind) for kind in kinds}
    table(
        "peak memory, 3 scales | bytes a pixel | share",
        [f"{k} | {v:.0f} | {v / memory['scikit-image']:.2f}" for k, v in memory.items()],
    )
    table(
        "record | bytes | npy bytes | encode ms | into a 224x224 crop ms | npy into a crop ms",
        [
            _record_row(name, stored[name][1], args.repeat)
            for name in ("640x480, 3 scales", "500x375, 1 scale")
        ],
    )
    _extrapolate(spent, stored, args.repeat)


def segment_with(
    implementation: str, images: list[np.ndarray], scales: tuple[int, ...]
) -> list[np.ndarray]:
    """FH maps of all images."""
    return [felzenszwalb(image, scales, implementation=implementation) for image in images]


def each(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """A call for each."""
    return [function(item) for item in items]


def peak_bytes_a_pixel(implementation: str) -> float:
    """Peak memory of one segmentation beyond what this process held before."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (60, 60, 3), dtype=np.uint8))
    image = np.asarray(coarse.resize((1500, 1500), Image.Resampling.BICUBIC))
    felzenszwalb(image[:64, :64], (100,), implementation=implementation)  # imports, compilers
    run = partial(felzenszwalb, image, SCALES, max_pixels=None, implementation=implementation)
    return peak_bytes(run) / image.shape[0] / image.shape[1]


def crops(size: tuple[int, int], count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of MAE's random crops of an (H, W) record."""
    image = np.broadcast_to(np.uint8(0), (*size, 3))
    for _ in range(count):
        found = label_indices(T.TransformList([RandomResizedCrop(224).get_transform(image)]), size)
        assert found is not None  # a crop moves whole pixels
        yield found


def _record_row(name: str, records: list[RegionRecord], repeat: int) -> str:
    datas = [record.to_bytes() for record in records]
    windows = [list(crops(record.size, 8)) for record in records]
    planes = [np.ascontiguousarray(record.labels) for record in records]

    def from_bytes() -> None:
        for data, record_windows in zip(datas, windows, strict=True):
            for window in record_windows:
                EncodedRecord(data).take(*window).regions()

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.npy" for i in range(len(planes))]
        for file, labels in zip(files, planes, strict=True):
            np.save(file, labels)

        def from_npy() -> None:
            for file, record_windows in zip(files, windows, strict=True):
                for window in record_windows:
                    labels = np.load(file)[:, window[0]][:, :, window[1]]
                    [np.unique(plane, return_counts=True) for plane in labels]

        best = race(
            {
                "encode": partial(each, RegionRecord.to_bytes, records),
                "crop": from_bytes,
                "npy": from_npy,
            },
            repeat,
        )
    count = len(records)
    return (
        f"{name} | {np.mean([len(data) for data in datas]):,.0f} | "
        f"{np.mean([labels.nbytes + 128 for labels in planes]):,.0f} | "
        f"{1e3 * best['encode'] / count:.2f} | {1e3 * best['crop'] / count / 8:.3f} | "
        f"{1e3 * best['npy'] / count / 8:.3f}"
    )


def _extrapolate(spent: dict, stored: dict, repeat: int) -> None:
    """What whole data sets cost at these photographs' mean; the assumptions stand below the table."""
    rows = []
    for name, count, setting in (
        ("COCO train2017", 118_287, "640x480, 3 scales"),
        ("ImageNet-1k train", 1_281_167, "500x375, 1 scale"),
    ):
        photos, records = stored[setting]
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / f"{i}.jpg" for i in range(len(photos))]
            for file, photo in zip(files, photos, strict=True):
                photo.save(file, quality=90)
            best = race(
                {
                    "decode": partial(each, read_image, files),
                    "encode": partial(each, RegionRecord.to_bytes, records),
                },
                repeat,
            )
        rest = (best["decode"] + best["encode"]) / len(photos)
        size = np.mean([len(record.to_bytes()) for record in records])
        ours, theirs = ((value + rest) * count / 3600 for value in spent[setting])
        tar = (-(-size // 512) * 512 + 512) * count / 1e9
        npy = np.mean([record.labels.nbytes + 128 for record in records]) * count / 1e9
        rows.append(f"{name} | {theirs:.1f} | {ours:.2f} | {npy:.0f} | {tar:.2f}")
    table("data set | scikit-image core-hours | ours core-hours | npy GB | ours GB", rows)
    print(
        "Assumes: every image costs what these photographs cost on average (COCO 640x480 at 3 scales,\n"
        "ImageNet 500x375 at one), cores as quick as this one, as many processes as cores, reading\n"
        "not the limit; JPEG decoding at quality 90, tar headers and padding included."
    )
