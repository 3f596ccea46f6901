"""Packs images together with their regions into indexed tar shards for training.

    rmae-d2 pack /photos --output shards --source fh scales=[500,1000,1500]
    rmae-d2 pack coco_2017_train --output shards --regions regions/coco
    rmae-d2 pack /photos --output shards                    images alone, for MAE
    rmae-d2 pack --output shards                            resume what was begun
    rmae-d2 pack --output shards --verify

The folder serves as a dataset, dataset.root=shards, and as a region store, mapper.regions.path=shards;
WebDataset's readers stream samples of `jpg` and `regions` from it. Images are copied unchanged. Unreadable
ones are skipped and listed in failures-*.json.

Works in a Slurm array or Ray cluster like rmae-d2 regions, with the same exit codes.
"""

import argparse
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .regions import job_arguments, parse_source, run_job

if TYPE_CHECKING:
    from ..regions.jobs.manifest import Manifest
    from ..regions.jobs.run import Engine
    from ..regions.sources.spec import SourceSpec

_MAX_BYTES = 1 << 30
_NO_REGIONS = "rmae_d2.regions.sources.nothing:NoRegions"
_STORED = "rmae_d2.regions.sources.stored:StoredRegions"
_UNITS = {unit: 1024**power for power, unit in enumerate(["", *"KMGT"])}


def num_bytes(text: str) -> int:
    """Parses a size: "1500000", "512M", "1.5G"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be bytes, as 1500000, 512M or 1.5G")
    return size


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    what = "a folder, a .txt list, a COCO .json ... (docs/labels.md), or the name of a registered dataset"
    add("dataset", nargs="?", help=what)
    add("--image-root", help="folder of the json's images, if they are not found otherwise")
    add("--output", required=True, help="folder of the shards; repeating the command resumes")
    regions = parser.add_mutually_exclusive_group()
    regions.add_argument("--source", help="region source, see rmae-d2 regions")
    regions.add_argument("--regions", metavar="STORE", help="take regions from a store")
    what = "size of a shard's images: 512M, 2G (default 1G); shards keep their initial division"
    add("--max-bytes", type=num_bytes, metavar="SIZE", help=what)
    job_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.dataset and "=" in args.dataset and not os.path.exists(args.dataset):
        args.dataset, args.arguments = None, [args.dataset, *args.arguments]
    return run_job(args, _manifest)


def _manifest(args: argparse.Namespace, engine: "Engine") -> "Manifest":
    """Returns the manifest that the options ask for; omitted options come from the folder's own."""
    from ..regions.jobs.manifest import Manifest, load_manifest, starts_by_bytes
    from ..regions.sources.spec import SourceSpec

    found = load_manifest(args.output)
    if found is None and args.verify:
        raise UserError(f"{args.output} has no manifest.json: rmae-d2 pack has not made it")
    if found is None and args.dataset is None:
        raise UserError("say what to pack: rmae-d2 pack IMAGES --output FOLDER")
    if found is not None and not found.packed:
        raise UserError(f"{args.output} is a region store, without images: give another --output")
    dicts = None if args.dataset is None else _images(args.dataset, args.image_root)
    source = _source(args)
    if found is not None and (args.verify or (source is None and args.max_bytes is None)):
        return found if dicts is None else found.moved(dicts)
    if found is not None:
        source, dicts = source or found.source, dicts or found.dataset_dicts()
    if found is not None and args.max_bytes is None:
        starts = found.starts
    else:
        files = [str(sample["file_name"]) for sample in dicts or ()]
        starts = starts_by_bytes(files, args.max_bytes or _MAX_BYTES)
    return Manifest.create(source or SourceSpec(_NO_REGIONS), dicts or (), starts)


def _images(text: str, image_root: str | None) -> "Sequence[dict[str, Any]]":
    """Returns the images of an address, or of a registered dataset if there is no such file or folder."""
    from detectron2.data import DatasetCatalog

    from ..annotations.formats.addresses import address_of
    from ..data import pretrain_dataset
    from ..files import exists

    if text in DatasetCatalog.list() and not exists(address_of(text).path):
        return pretrain_dataset(text)
    return pretrain_dataset((), text, image_root)


def _source(args: argparse.Namespace) -> "SourceSpec | None":
    """Returns the region source given by the options; None if there is none."""
    if args.arguments and args.source is None:
        raise UserError(f"{' '.join(args.arguments)}: arguments of a source need --source")
    if args.source is not None:
        return parse_source(args.source, args.arguments)
    if args.regions is None:
        return None
    from ..regions import RegionStore
    from ..regions.sources.spec import SourceSpec

    folder = RegionStore(args.regions).folder
    path = folder if "://" in folder else os.path.abspath(folder)
    return SourceSpec(_STORED, {"path": path})
