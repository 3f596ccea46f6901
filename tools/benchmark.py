#!/usr/bin/env python
"""Times our parts against the straightforward ones, side by side in one run, and prints the ratios.

    python tools/benchmark.py step                   R-MAE's training step against MAE's, ViT-B/16, batch 8
    python tools/benchmark.py step --size small --batch 64 --precision bf16
    python tools/benchmark.py regions                FH, its memory, records, and what COCO and ImageNet cost
    python tools/benchmark.py loader                 a data-loading worker, images a second and bytes a sample
    python tools/benchmark.py regions --images /photos

Variants take turns and the minimum of the repetitions counts, for other work on the machine only ever adds
time. Ratios carry over to other machines better than seconds. Without --images the photographs that the
scikit-image wheel carries are used, at 640x480.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.data import transforms as T
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as TF

from rmae_d2.config import apply_overrides, get_config
from rmae_d2.data import RandomResizedCrop as OurCrop
from rmae_d2.data import RegionDatasetMapper, build_train_loader, images_from, read_image
from rmae_d2.data.transforms import label_indices
from rmae_d2.engine.trainer import PRECISIONS
from rmae_d2.modeling import VIT_SIZES, vit_kwargs
from rmae_d2.regions import (
    EncodedRecord,
    RegionRecord,
    ShardHeader,
    ShardWriter,
    StoredRegions,
    write_index,
)
from rmae_d2.regions.felzenszwalb import felzenszwalb
from rmae_d2.regions.shards import digest

VARIANTS = {
    "MAE": ["model.region_branch=null"],
    "R-MAE, neck depth 1": [],
    "R-MAE, neck depth 8": ["model.region_branch.neck_depth=8"],
    "RAE, neck depth 1": ["model.pixel_decoder=null"],
}
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle_left", "hubble_deep_field")
SCALES = (500, 1000, 1500)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# ------------------------------------------------------------------------------------------------ timing


def race(variants: dict[str, Callable[[], Any]], repeat: int) -> dict[str, float]:
    """Seconds of each variant: the minimum over rounds in which they take turns.

    A first round warms up (compilers, page cache) and does not count.
    """
    best = dict.fromkeys(variants, float("inf"))
    for round_number in range(repeat + 1):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if round_number:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def table(header: str, rows: list[tuple[Any, ...]]) -> None:
    """Prints a Markdown table; the header's columns are separated by |."""
    columns = [column.strip() for column in header.split("|")]
    print("\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")


# -------------------------------------------------------------------------------------------------- step


def build(overrides: list[str], size: str, device: str) -> nn.Module:
    """A pre-training model of a named ViT size."""
    net = [f"model.backbone.net.{key}={value}" for key, value in vit_kwargs(size).items()]
    cfg = apply_overrides(get_config("pretrain/rmae_vitb.py"), [*net, *overrides])
    return instantiate(cfg.model).to(device).train()


def train_step(model: nn.Module, batch: list[dict], device: str, precision: str) -> None:
    """One forward and backward pass."""
    dtype = PRECISIONS[precision]
    with torch.autocast(device, dtype, enabled=dtype is not None):
        losses = model(batch)
    sum(losses.values()).backward()
    model.zero_grad(set_to_none=True)
    if device == "cuda":
        torch.cuda.synchronize()


def step(args: argparse.Namespace) -> None:
    """R-MAE's step against MAE's, on synthetic images."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = [
        {
            "image": torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8),
            "regions": torch.randint(0, 256, (1, 224, 224), dtype=torch.uint8),
            "num_regions": 8,
            "mask_seed": seed,
        }
        for seed in range(args.batch)
    ]
    models = {name: build(overrides, args.size, device) for name, overrides in VARIANTS.items()}
    best = race(
        {
            name: lambda model=model: train_step(model, batch, device, args.precision)
            for name, model in models.items()
        },
        args.repeat,
    )
    print(
        f"ViT-{args.size}, batch {args.batch}, {args.precision}, {device}, {torch.get_num_threads()} threads"
    )
    table(
        "model | s a step | against MAE",
        [(name, f"{value:.3f}", f"{value / best['MAE']:.3f}") for name, value in best.items()],
    )


# ----------------------------------------------------------------------------------------------- regions


def photographs(args: argparse.Namespace, size: tuple[int, int]) -> list[Image.Image]:
    """Photographs of one (width, height), upright or turned, at most ``--max-images``."""
    if args.images:
        files = [sample["file_name"] for sample in images_from(args.images)]
        photos = [Image.fromarray(read_image(file)) for file in files[: args.max_images]]
    else:
        import skimage.data

        folder = Path(skimage.data.__file__).parent
        files = [path for name in PHOTOS for path in sorted(folder.glob(f"{name}.*"))]
        photos = [Image.open(path).convert("RGB") for path in files]
    turned = [size if photo.width >= photo.height else size[::-1] for photo in photos]
    return [
        photo.resize(shape, Image.Resampling.LANCZOS)
        for photo, shape in zip(photos, turned, strict=True)
    ]


def segment_with(
    implementation: str, images: list[np.ndarray], scales: tuple[int, ...]
) -> list[np.ndarray]:
    """FH maps of all images."""
    return [felzenszwalb(image, scales, implementation=implementation) for image in images]


def peak_bytes_a_pixel(implementation: str) -> float:
    """Peak memory of one segmentation above what the process held before, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_in_process, (implementation,))


def _peak_in_process(implementation: str) -> float:
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (60, 60, 3), dtype=np.uint8))
    image = np.asarray(coarse.resize((1500, 1500), Image.Resampling.BICUBIC))
    felzenszwalb(image[:64, :64], (100,), implementation=implementation)  # imports, compilers
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (Linux)
    before = _memory_kb("VmRSS")
    felzenszwalb(image, SCALES, max_pixels=None, implementation=implementation)
    return (_memory_kb("VmHWM") - before) * 1024 / image.shape[0] / image.shape[1]


def _memory_kb(key: str) -> int:
    """A line of the process's memory, in KiB: VmRSS is held now, VmHWM the most ever held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def crops(size: tuple[int, int], count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of MAE's random crops of an (H, W) record."""
    image = np.broadcast_to(np.uint8(0), (*size, 3))
    for _ in range(count):
        yield label_indices(T.TransformList([OurCrop(224).get_transform(image)]), size)


def regions(args: argparse.Namespace) -> None:
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
        best = race(
            {
                kind: lambda kind=kind, images=images, scales=scales: segment_with(
                    kind, images, scales
                )
                for kind in ("scikit-image", "numba")
            },
            args.repeat,
        )
        ours, theirs = (segment_with(kind, images, scales) for kind in ("numba", "scikit-image"))
        same = sum(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
        seconds = {kind: value / len(images) for kind, value in best.items()}
        ratio = seconds["scikit-image"] / seconds["numba"]
        rows.append(
            (
                name,
                f"{1e3 * seconds['scikit-image']:.0f}",
                f"{1e3 * seconds['numba']:.1f}",
                f"{ratio:.1f}",
                f"{same} of {len(images)}",
            )
        )
        records = [RegionRecord.from_labels(labels) for labels in ours]
        spent[name] = (seconds["numba"], seconds["scikit-image"])
        stored[name] = (photos, records)
    print(f"{len(images)} photographs, one thread, minimum of {args.repeat}")
    table("FH | scikit-image ms | numba ms | ratio | same partition", rows)
    memory = {kind: peak_bytes_a_pixel(kind) for kind in ("scikit-image", "numba")}
    table(
        "peak memory, 3 scales | bytes a pixel | share",
        [(k, f"{v:.0f}", f"{v / memory['scikit-image']:.2f}") for k, v in memory.items()],
    )
    table(
        "record | bytes | npy bytes | encode ms | into a 224x224 crop ms | npy into a crop ms",
        [
            _record_row(name, stored[name][1], args.repeat)
            for name in ("640x480, 3 scales", "500x375, 1 scale")
        ],
    )
    _extrapolate(spent, stored, args.repeat)


def _record_row(name: str, records: list[RegionRecord], repeat: int) -> tuple[Any, ...]:
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
                "encode": lambda: [record.to_bytes() for record in records],
                "crop": from_bytes,
                "npy": from_npy,
            },
            repeat,
        )
    count = len(records)
    return (
        name,
        f"{np.mean([len(data) for data in datas]):,.0f}",
        f"{np.mean([labels.nbytes + 128 for labels in planes]):,.0f}",
        f"{1e3 * best['encode'] / count:.2f}",
        f"{1e3 * best['crop'] / count / 8:.3f}",
        f"{1e3 * best['npy'] / count / 8:.3f}",
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
                    "decode": lambda files=files: [read_image(file) for file in files],
                    "encode": lambda records=records: [record.to_bytes() for record in records],
                },
                repeat,
            )
        rest = (best["decode"] + best["encode"]) / len(photos)
        size = np.mean([len(record.to_bytes()) for record in records])
        ours, theirs = ((value + rest) * count / 3600 for value in spent[setting])
        tar = (-(-size // 512) * 512 + 512) * count / 1e9
        npy = np.mean([record.labels.nbytes + 128 for record in records]) * count / 1e9
        rows.append((name, f"{theirs:.1f}", f"{ours:.2f}", f"{npy:.0f}", f"{tar:.2f}"))
    table("data set | scikit-image core-hours | ours core-hours | npy GB | ours GB", rows)
    print(
        "Assumes: every image costs what these photographs cost on average (COCO 640x480 at 3 scales,\n"
        "ImageNet 500x375 at one), cores as quick as this one, as many processes as cores, reading\n"
        "not the limit; JPEG decoding at quality 90, tar headers and padding included."
    )


# ------------------------------------------------------------------------------------------------ loader


class PlainPipeline(Dataset):
    """The straightforward pipeline: npy label maps, Pillow's bicubic, every label compared, float32."""

    def __init__(self, files: list[Path], length: int) -> None:
        self.files = files
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        file = self.files[index % len(self.files)]
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
    """Throughput once the first two batches are there."""
    for _ in range(2):
        next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * batch_size / (time.perf_counter() - start)


def write_store(folder: Path, files: list[Path]) -> StoredRegions:
    """A region store of the npy maps beside the files."""
    folder.mkdir()
    with ShardWriter(folder, 0, ShardHeader(params={}, num_shards=1)) as writer:
        for file in files:
            record = RegionRecord.from_labels(np.load(file.with_suffix(".npy")))
            writer.add(file.name, record.to_bytes(), digest(file.read_bytes()))
    write_index(folder)
    return StoredRegions(folder)


def loader(args: argparse.Namespace) -> None:
    """One worker's images a second and bytes a sample, ours against the straightforward pipeline."""
    torch.set_num_threads(1)
    rows = []
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
            ours = build_train_loader(dicts, mapper, args.batch, num_workers=1, pin_memory=False)
            streams = {"plain": iter(plain), "ours": iter(ours)}
            best = dict.fromkeys(streams, 0.0)
            for _ in range(args.repeat):
                for kind, stream in streams.items():
                    best[kind] = max(best[kind], images_a_second(stream, args.batch, args.batches))
            sample = next(streams["ours"])[0]
            plain_bytes = sum(tensor.nbytes for tensor in PlainPipeline(files, 1)[0])
            our_bytes = sum(v.nbytes for v in sample.values() if isinstance(v, torch.Tensor))
            del streams
            rows.append(
                (
                    name,
                    f"{best['plain']:.0f}",
                    f"{best['ours']:.0f}",
                    f"{best['ours'] / best['plain']:.2f}",
                    f"{plain_bytes:,}",
                    f"{our_bytes:,}",
                )
            )
    print(f"one worker, batches of {args.batch}, best of {args.repeat}")
    table("images | plain img/s | ours img/s | ratio | plain bytes a sample | ours bytes", rows)


# ------------------------------------------------------------------------------------------ command line


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("step", help=step.__doc__)
    one.add_argument("--size", choices=list(VIT_SIZES), default="base")
    one.add_argument("--batch", type=int, default=8)
    one.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    one.add_argument("--repeat", type=int, default=5)
    one.set_defaults(run=step)
    for run in (regions, loader):
        one = commands.add_parser(run.__name__, help=run.__doc__)
        one.add_argument("--images", help="a folder, a .txt list or a COCO json of photographs")
        one.add_argument("--max-images", type=int, default=16)
        one.add_argument("--repeat", type=int, default=3)
        if run is loader:
            one.add_argument("--batch", type=int, default=32)
            one.add_argument("--batches", type=int, default=8, help="batches timed in a round")
        one.set_defaults(run=run)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
