"""Regions: FH's time and memory, records, and the cost for COCO and ImageNet."""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...data import RandomResizedCrop, read_image
from ...regions import EncodedRecord, RegionRecord
from ...regions.sources.felzenszwalb import felzenszwalb
from ...tables import table
from .common import SCALES, in_fresh_process, peak_bytes, photographs, race

KINDS = ("scikit-image", "numba")
# By stand-in for its images: a dataset and its number of images.
DATA_SETS = {
    "640x480, 3 scales": ("COCO train2017", 118_287),
    "500x375, 1 scale": ("ImageNet-1k train", 1_281_167),
}
CROPS = 8  # per image


def run(args: argparse.Namespace) -> None:
    """Compares FH with scikit-image, and records with npy; extrapolates to COCO and ImageNet."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    segmented, stored, whole = [], [], []
    for size in ((640, 480), (500, 375)):
        photos = photographs(args, size)
        images = [np.asarray(photo) for photo in photos]
        for scales in (SCALES, (1000,)):
            name = f"{size[0]}x{size[1]}, {len(scales)} scale{'s' * (len(scales) > 1)}"
            fh = [partial(felzenszwalb, scales=scales, implementation=kind) for kind in KINDS]
            segment = {kind: partial(each, f, images) for kind, f in zip(KINDS, fh, strict=True)}
            best = race(segment, args.repeat)
            theirs, ours = (segment[kind]() for kind in KINDS)
            same = sum(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
            slow, quick = (1e3 * best[kind] / len(images) for kind in KINDS)
            row = [name, f"{slow:.0f}", f"{quick:.1f}", f"{slow / quick:.1f}"]
            segmented.append([*row, f"{same} of {len(images)}"])
            if name in DATA_SETS:
                row, costs = _stored(name, photos, ours, (slow, quick), args.repeat)
                stored.append(row)
                whole.append(costs)
    print(f"{len(images)} photographs, one thread, minimum of {args.repeat}\n")
    print(table(["FH", "scikit-image ms", "numba ms", "ratio", "same partition"], segmented))
    memory = {kind: in_fresh_process(peak_bytes_a_pixel, kind) for kind in KINDS}
    rows = [[kind, f"{peak:.0f}", peak / memory[KINDS[0]]] for kind, peak in memory.items()]
    print(f"\n{table(['peak memory, 3 scales', 'bytes per pixel', 'share'], rows)}\n")
    headers = ["record", "bytes", "npy bytes", "encode ms", "into a 224x224 crop ms"]
    print(table([*headers, "npy into a crop ms"], stored, digits=3))
    headers = ["data set", "scikit-image core-hours", "ours core-hours", "npy GB", "ours GB"]
    print(f"\n{table(headers, whole)}")
    print(
        "Assumes: every image costs what these photographs cost on average (COCO 640x480 at 3 scales,\n"
        "ImageNet 500x375 at one), cores as quick as this one, as many processes as cores, reading\n"
        "not the limit; JPEG decoding at quality 90, tar headers and padding included."
    )


def each(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Calls a function for each item."""
    return [function(item) for item in items]


def peak_bytes_a_pixel(implementation: str) -> float:
    """Peak memory per pixel of one segmentation beyond what this process held before."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (60, 60, 3), dtype=np.uint8))
    image = np.asarray(coarse.resize((1500, 1500), Image.Resampling.BICUBIC))
    felzenszwalb(image[:64, :64], (100,), implementation=implementation)  # imports, compilers
    run = partial(felzenszwalb, image, SCALES, max_pixels=None, implementation=implementation)
    return peak_bytes(run) / image.shape[0] / image.shape[1]


def _stored(
    name: str,
    photos: list[Image.Image],
    maps: list[np.ndarray],
    fh_ms: tuple[float, float],
    repeat: int,
) -> tuple[list[Any], list[Any]]:
    """Returns rows for the maps as records, and for a whole dataset at their mean."""
    records = [RegionRecord.from_labels(labels) for labels in maps]
    datas = [record.to_bytes() for record in records]
    crop = RandomResizedCrop(224)
    windows = [
        [
            crop.get_transform(np.asarray(photo)).label_indices(photo.size[::-1])
            for _ in range(CROPS)
        ]
        for photo in photos
    ]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.jpg" for i in range(len(photos))]
        for file, photo, record in zip(files, photos, records, strict=True):
            photo.save(file, quality=90)
            np.save(file.with_suffix(".npy"), np.ascontiguousarray(record.labels))

        def from_bytes() -> None:
            for data, record_windows in zip(datas, windows, strict=True):
                for window in record_windows:
                    EncodedRecord(data).take(*window).regions()

        def from_npy() -> None:
            for file, record_windows in zip(files, windows, strict=True):
                for rows, columns in record_windows:
                    labels = np.load(file.with_suffix(".npy"))[:, rows][:, :, columns]
                    each(partial(np.unique, return_counts=True), labels)

        variants: dict[str, Callable[[], Any]] = {
            "decode": partial(each, read_image, files),
            "encode": partial(each, RegionRecord.to_bytes, records),
            "crop": from_bytes,
            "npy": from_npy,
        }
        ms = {key: 1e3 * s / len(photos) for key, s in race(variants, repeat).items()}
    size = float(np.mean([len(data) for data in datas]))
    npy = float(np.mean([record.labels.nbytes + 128 for record in records]))
    crops = (ms["crop"] / CROPS, ms["npy"] / CROPS)
    data_set, count = DATA_SETS[name]
    hours = [(fh + ms["decode"] + ms["encode"]) * count / 3.6e6 for fh in fh_ms]
    tar = -(-size // 512) * 512 + 512
    row = [name, f"{size:,.0f}", f"{npy:,.0f}", ms["encode"], *crops]
    return row, [data_set, *hours, f"{npy * count / 1e9:.0f}", tar * count / 1e9]
