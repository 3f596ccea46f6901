"""Shows the content of a region store: statistics and a contact sheet."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from ..data import images_from, read_image
from ..errors import ImageReadError, StoreError
from ..regions import EncodedRecord, RegionStore
from ..regions.jobs.manifest import load_manifest
from ..regions.record.statistics import measure
from .regions import draw_regions
from .sheets import SheetRow, contact_sheet, save_picture


def inspect_store(
    store: str,
    keys: Sequence[str] = (),
    output: Path = Path("regions.png"),
    *,
    images: str | None = None,
    rows: int = 12,
    sample: int = 1000,
    num_regions: int = 8,
) -> str:
    """Writes a contact sheet of a store's images and returns its statistics as text.

    Args:
        keys: image ids to show and measure; by default evenly spread ones.
        output: picture to write.
        images: folder, list or json of the images if they are not where the store's manifest says.
        rows: images on the sheet.
        sample: number of images measured.
        num_regions: K of pre-training.

    Raises:
        StoreError: if there is no such store, or it has no such image.
    """
    held = RegionStore(store)
    every = list(held.keys())
    if unknown := [key for key in keys if key not in held]:
        near = ", ".join(islice(every, 5))
        raise StoreError(f"{store} has no image {unknown[0]}; ids look like {near}")
    measured = [EncodedRecord(held.get(key)) for key in keys or _spread(every, sample)]
    statistics = measure(measured, num_regions=num_regions)
    manifest = load_manifest(store)
    dicts = images_from(images) if images else manifest.dataset_dicts() if manifest else []
    files = {str(dataset_dict["image_id"]): dataset_dict["file_name"] for dataset_dict in dicts}
    shown = keys or _spread(every, rows)
    sheet = contact_sheet([_row(key, EncodedRecord(held.get(key)), files) for key in shown])
    save_picture(sheet, output)
    return (
        f"{store}: {len(every)} images in {held.present} of {held.num_shards} shards\n"
        f"made with {dict(held.params)}\n{statistics}\n"
        f"contact sheet of {len(shown)} images: {output.resolve()}"
    )


def _spread(keys: Sequence[str], count: int) -> Sequence[str]:
    """Picks at most ``count`` evenly spread keys."""
    count = min(count, len(keys))
    return [keys[i * len(keys) // count] for i in range(count)]


def _row(key: str, record: EncodedRecord, files: dict[str, str]) -> SheetRow:
    """Title and pictures of one image; its regions over gray if the image cannot be read."""
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
