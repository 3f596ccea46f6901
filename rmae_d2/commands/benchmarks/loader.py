"""Data loading: images per second of one worker."""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import transforms as T
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as TF

from ...data import RandomResizedCrop as OurCrop
from ...data import RegionDatasetMapper, build_train_loader, read_image
from ...modeling import Batch
from ...regions import RegionRecord, ShardHeader, ShardWriter, StoredRegions, write_index
from ...regions.sources.felzenszwalb import felzenszwalb
from ...regions.store.shards import digest
from ...tables import table
from .common import CLOCKS, SCALES, photographs, race

#: Of the third stream, which decodes each image once for so many crops.
VIEWS = 4

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PlainPipeline(Dataset):
    """The straightforward pipeline: npy label maps, Pillow's bicubic, every label compared, float32."""

    def __init__(self, files: list[Path], length: int) -> None:
        self.files = files * -(-length // len(files))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        file = self.files[index]
        image = Image.open(file).convert("RGB")
        labels = torch.from_numpy(np.load(file.with_suffix(".npy")))
        box = RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3])
        image = TF.resized_crop(image, *box, [224, 224], InterpolationMode.BICUBIC)
        top, left, height, width = box
        window = labels[None, :, top : top + height, left : left + width]
        labels = F.interpolate(window.float(), (224, 224), mode="nearest")[0]
        if torch.rand(1) < 0.5:
            image, labels = TF.hflip(image), labels.flip(-1)
        pixels = TF.normalize(TF.to_tensor(image), MEAN, STD)
        masks = torch.cat([plane == plane.unique()[:, None, None] for plane in labels])
        chosen = torch.randperm(len(masks))[:8]
        chosen = chosen.repeat(8)[:8] if len(chosen) < 8 else chosen
        return pixels, masks[chosen].float()


def images_a_second(batches: Iterator[Any], batch_size: int, count: int) -> float:
    """Measures throughput after the first two batches."""
    for _ in range(2):
        next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * batch_size / (time.perf_counter() - start)


def write_store(folder: Path, files: list[Path]) -> StoredRegions:
    """Writes a region store from the npy maps next to the files."""
    folder.mkdir()
    with ShardWriter(folder, 0, ShardHeader(params={}, num_shards=1)) as writer:
        for file in files:
            record = RegionRecord.from_labels(np.load(file.with_suffix(".npy")))
            writer.add(file.name, record.to_bytes(), digest(file.read_bytes()))
    write_index(folder)
    return StoredRegions(folder)


def crops_of_large_photos(args: argparse.Namespace) -> str:
    """Tabulates CPU time of a 224-pixel crop from 12 megapixels, by torchvision and by ours."""
    crop = [OurCrop(224), T.RandomFlip(prob=0.5)]
    whole, part = (
        RegionDatasetMapper(augmentations=crop, exact_decode=exact) for exact in (True, False)
    )
    theirs = RandomResizedCrop(224, interpolation=InterpolationMode.BICUBIC)
    ways = {
        "torchvision, Pillow": lambda file: theirs(Image.open(file).convert("RGB")),
        "ours, exact_decode=true": lambda file: whole({"file_name": str(file)}),
        "ours": lambda file: part({"file_name": str(file)}),
    }
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.jpg" for i in range(4)]
        for file, photo in zip(files, photographs(args, (4000, 3000)), strict=False):
            photo.save(file, quality=90)

        def cut_all(cut: Callable[[Path], Any]) -> None:
            torch.manual_seed(0)
            for file in files:
                cut(file)

        calls = {way: partial(cut_all, cut) for way, cut in ways.items()}
        best = race(calls, args.repeat, CLOCKS["cpu"])
    most = max(best.values())
    rows = [[way, f"{1e3 * s / len(files):.0f}", most / s] for way, s in best.items()]
    return table(["4000x3000, crops of 224", "CPU ms", "ratio"], rows)


def measured(
    args: argparse.Namespace,
) -> Iterator[tuple[str, dict[str, float], dict[str, int]]]:
    """Yields per kind of photograph its name, and both pipelines' images per second and bytes per sample."""
    torch.set_num_threads(1)
    for name, size, scales in (
        ("640x480, 3 scales", (640, 480), SCALES),
        ("500x375, 1 scale", (500, 375), (1000,)),
    ):
        with tempfile.TemporaryDirectory() as folder:
            files = []
            for i, photo in enumerate(photographs(args, size)):
                files.append(Path(folder) / f"{i}.jpg")
                photo.save(files[-1], quality=90)
                labels = felzenszwalb(read_image(files[-1]), scales)
                np.save(files[-1].with_suffix(".npy"), labels.astype(np.uint8))
            store = write_store(Path(folder) / "store", files)
            mapper = RegionDatasetMapper(
                augmentations=[OurCrop(224), T.RandomFlip(prob=0.5)], regions=store
            )
            dicts = [{"file_name": str(file), "image_id": file.name} for file in files]
            count = args.batches * (args.repeat + 1) + 8
            plain = DataLoader(PlainPipeline(files, count * args.batch), args.batch, num_workers=1)
            ours, several = (
                build_train_loader(
                    dicts,
                    mapper,
                    args.batch,
                    num_workers=1,
                    pin_memory=False,
                    views_per_image=views,
                )
                for views in (1, VIEWS)
            )
            streams = {"plain": iter(plain), "ours": iter(ours), "several": iter(several)}
            best = dict.fromkeys(streams, 0.0)
            for _ in range(args.repeat):
                for kind, stream in streams.items():
                    best[kind] = max(best[kind], images_a_second(stream, args.batch, args.batches))
            batch = next(streams["ours"])
            plain_bytes = sum(tensor.nbytes for tensor in PlainPipeline(files, 1)[0])
            assert isinstance(batch, Batch) and batch.regions is not None
            our_bytes = (batch.images.nbytes + batch.regions.nbytes) // len(batch)
            del streams
            yield name, best, {"plain": plain_bytes, "ours": our_bytes}


def run(args: argparse.Namespace) -> None:
    """Compares one worker's images per second and bytes per sample with the straightforward pipeline."""
    rows = []
    for name, rates, size in measured(args):
        row = [name, *(f"{rate:.0f}" for rate in rates.values()), rates["ours"] / rates["plain"]]
        rows.append([*row, *(f"{bytes_:,}" for bytes_ in size.values())])
    print(f"one worker, batches of {args.batch}, best of {args.repeat}\n")
    headers = [
        "images",
        "plain img/s",
        "ours img/s",
        f"{VIEWS} views per image",
        "ratio",
        "plain bytes per sample",
        "ours bytes",
    ]
    print(f"{table(headers, rows)}\n\n{crops_of_large_photos(args)}")
