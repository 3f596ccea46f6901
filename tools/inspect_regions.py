#!/usr/bin/env python
"""Shows what a region store holds: statistics, and a contact sheet to look at.

python tools/inspect_regions.py DIR                              evenly spread images
python tools/inspect_regions.py DIR 000000000009.jpg 42          these images, by id
python tools/inspect_regions.py DIR --images /new/place          where the images are now
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from rmae_d2.data import images_from, read_image
from rmae_d2.errors import ImageReadError, StoreError, UserError
from rmae_d2.regions import EncodedRecord, RegionStore
from rmae_d2.regions.jobs.manifest import load_manifest
from rmae_d2.regions.record.statistics import measure
from rmae_d2.visualization import SheetRow, contact_sheet, draw_regions


def spread(keys: Sequence[str], count: int) -> list[str]:
    """At most ``count`` of the keys, evenly spread."""
    if len(keys) <= count:
        return list(keys)
    return [keys[i * len(keys) // count] for i in range(count)]


def image_files(store: str, images: str | None) -> dict[str, str]:
    """Image id, as text, to file: as the store's manifest says, or of a folder, list or json."""
    manifest = load_manifest(store)
    dicts = images_from(images) if images else manifest.dataset_dicts() if manifest else []
    return {str(sample["image_id"]): sample["file_name"] for sample in dicts}


def row(key: str, record: EncodedRecord, files: dict[str, str]) -> SheetRow:
    """Title and pictures of one image; its regions over gray where the image cannot be read."""
    decoded = record.decode()
    count = len(decoded.regions())
    title = f"{key}: {count} regions, {len(record.data):,} bytes"
    try:
        image = read_image(files[key])
        if image.shape[:2] != record.size:
            title += f" (the image is {image.shape[:2]}, the record {record.size}: not shown)"
    except (KeyError, ImageReadError) as error:
        title += f" (image not shown: {error})"
        image = None
    if image is None or image.shape[:2] != record.size:
        image = np.full((*record.size, 3), 128, np.uint8)
    return SheetRow(title, draw_regions(image, decoded))


def inspect(args: argparse.Namespace) -> None:
    """Prints the statistics and writes the sheet."""
    store = RegionStore(args.store)
    keys = list(store.keys())
    shards = f"{store.present} of {store.num_shards} shards"
    print(f"{args.store}: {len(keys)} images in {shards}\nmade with {dict(store.params)}")
    if unknown := [key for key in args.keys if key not in store]:
        near = ", ".join(islice(keys, 5))
        raise StoreError(f"{args.store} has no image {unknown[0]}; ids look like {near}")
    measured = [EncodedRecord(store.get(key)) for key in args.keys or spread(keys, args.sample)]
    print(measure(measured, num_regions=args.num_regions))
    files = image_files(args.store, args.images)
    shown = args.keys or spread(keys, args.rows)
    sheet = contact_sheet([row(key, EncodedRecord(store.get(key)), files) for key in shown])
    output = args.output or Path("regions.png")
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(output)
    print(f"contact sheet of {len(shown)} images: {output.resolve()}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", metavar="DIR", help="folder of the store")
    parser.add_argument("keys", metavar="ID", nargs="*", help="image ids; default: spread evenly")
    parser.add_argument("--images", help="folder, list or json, where the images have moved")
    parser.add_argument("--output", type=Path, help="picture to write (default: ./regions.png)")
    parser.add_argument("--rows", type=int, default=12, help="images on the sheet")
    parser.add_argument("--sample", type=int, default=1000, help="images that are measured")
    parser.add_argument("--num-regions", type=int, default=8, help="K of pre-training")
    try:
        inspect(parser.parse_args())
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
