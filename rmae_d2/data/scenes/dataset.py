"""The embedded "scenes" dataset: rendered pictures with exact masks, written in COCO's formats.

Under the output folder::

    scenes.json                             how it was made; its presence means it is complete
    train/000000.jpg ...  val/...           JPEG, quality 90
    annotations/instances_{train,val}.json  compressed RLE masks of the visible pixels (load as bitmasks)
    annotations/panoptic_{train,val}.json   with panoptic_{train,val}/000000.png
    stuff_{train,val}/000000.png            uint8, index into THING_CLASSES + STUFF_CLASSES (255 = ignore,
                                            which does not occur)
"""

import json
import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from numpy.typing import NDArray
from PIL import Image

from ...errors import UserError
from .render import (  # noqa: F401  (imported from here in 0.1)
    CATEGORIES,
    PHOTOS,
    STUFF_CLASSES,
    THING_CLASSES,
    Scene,
    photo_path,
    render_scene,
)

logger = logging.getLogger(__name__)

VERSION = "1"  # increase it whenever the same (seed, index) gives other pixels
SPLITS = ("train", "val")
STAMP = "scenes.json"
_JPEG_QUALITY = 90

Segments = list[dict[str, Any]]


def panoptic_metadata() -> dict[str, Any]:
    """Metadata for Detectron2's MetadataCatalog for the dataset's panoptic and semantic forms.

    Semantic classes are contiguous over things and stuff, as in its `coco_2017_*_panoptic` standard form.
    """
    names = [c["name"] for c in CATEGORIES]
    colors = [c["color"] for c in CATEGORIES]
    ids = {c["id"]: i for i, c in enumerate(CATEGORIES)}
    things = {c["id"]: ids[c["id"]] for c in CATEGORIES if c["isthing"]}
    return {
        "thing_classes": names,
        "thing_colors": colors,
        "stuff_classes": names,
        "stuff_colors": colors,
        "thing_dataset_id_to_contiguous_id": things,
        "stuff_dataset_id_to_contiguous_id": {i: n for i, n in ids.items() if i not in things},
    }


def panoptic_of(scene: Scene) -> tuple[NDArray[np.int32], Segments]:
    """The panoptic form of a scene.

    (H, W) segment ids from 1 (things first, nearest object first, then stuff), and COCO's `segments_info`
    entry for each segment id.
    """
    parts = list(zip(scene.masks, scene.category_ids, strict=True))
    free = ~scene.masks.any(axis=0)
    for category_id in np.unique(scene.background_ids[free]):
        parts.append((free & (scene.background_ids == category_id), category_id))
    ids = np.zeros(free.shape, dtype=np.int32)
    segments: Segments = []
    for number, (region, category_id) in enumerate(parts, start=1):
        ids[region] = number
        extent = _extent(mask_util.encode(np.asfortranarray(region, dtype=np.uint8)))
        segments.append({"id": number, "category_id": int(category_id), **extent})
    return ids, segments


def write_scenes(
    output: str | os.PathLike[str],
    num_train: int = 900,
    num_val: int = 100,
    seed: int = 0,
    workers: int | None = None,
) -> bool:
    """Render the dataset into `output`, unless it already exists.

    Everything is written into a hidden folder beside `output` that is renamed at the end, so an
    interrupted run never leaves something that looks complete. The files do not depend on `workers`.

    Args:
        output: Folder to create; it may exist if it is empty or holds this very dataset.
        num_train: Images in the training split.
        num_val: Images in the validation split, whose scenes have the indices that follow.
        seed: Non-negative; another seed gives another dataset.
        workers: Processes; all usable cores by default, at most 16.

    Returns:
        True if it was rendered, False if everything existed already.

    Raises:
        UserError: A number is out of range; `output` holds something else, or these scenes with files
            missing; the installed scikit-image lacks the photographs.
    """
    if num_train < 1 or num_val < 1:
        raise UserError(
            f"num_train and num_val must be at least 1, got {num_train} and {num_val} images"
        )
    if seed < 0:
        raise UserError(f"seed must not be negative, got {seed}")
    if workers is not None and workers < 1:
        raise UserError(f"workers must be at least 1, got {workers}")
    root = Path(output)
    stamp = {"version": VERSION, "seed": seed, "num_train": num_train, "num_val": num_val}
    if _already_there(root, stamp):
        logger.info("%s already holds these scenes: nothing to do", root)
        return False
    for name in PHOTOS:
        photo_path(name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = workers or min(16, cores or 1)
    logger.info("rendering %d scenes into %s with %d processes", num_train + num_val, root, count)
    with atomic_folder(root) as folder:
        _write_split(folder, "train", 0, num_train, seed, count)
        _write_split(folder, "val", num_train, num_val, seed, count)
        (folder / STAMP).write_text(json.dumps(stamp, indent=1) + "\n")
    return True


def _already_there(root: Path, stamp: dict[str, Any]) -> bool:
    """True if `root` holds the stamp's dataset, False if it is empty or absent; otherwise an error."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    remedy = "choose another output folder, or delete this one first"
    found: Any = None
    with suppress(OSError, ValueError):  # missing or unreadable: some other folder
        found = json.loads((root / STAMP).read_text())
    if not isinstance(found, dict) or not stamp.keys() <= found.keys():
        raise UserError(f"{root} already holds something that is not a scenes dataset: {remedy}")
    different = [f"{k}={found[k]} (asked: {v})" for k, v in stamp.items() if found[k] != v]
    if different:
        raise UserError(f"{root} already holds scenes with {', '.join(different)}: {remedy}")
    expected = {"annotations": 2 * len(SPLITS)}
    for split in SPLITS:
        folders = (split, f"panoptic_{split}", f"stuff_{split}")
        expected |= dict.fromkeys(folders, stamp[f"num_{split}"])
    for name, number in expected.items():
        if sum(1 for _ in (root / name).glob("*.*")) < number:
            raise UserError(
                f"{root} holds these scenes, but files of {name}/ are missing: {remedy}"
            )
    return True


@contextmanager
def atomic_folder(root: Path) -> Iterator[Path]:
    """A new folder beside `root` that is renamed to `root` if the block succeeds, and removed if it fails."""
    root = root.absolute()
    prefix = f".{root.name}.incomplete-"
    for left in root.parent.glob(f"{prefix}*"):
        logger.warning(
            "%s is of a run that was killed or still writes; delete it if none does", left
        )
    folder = root.parent / f"{prefix}{os.getpid()}"
    if folder.exists():
        shutil.rmtree(folder)  # left by a killed run with the same process id
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{root} cannot be made: {error}") from error
    try:
        yield folder
        try:
            os.replace(folder, root)  # works if `root` is empty, fails if not
        except OSError as error:
            raise UserError(
                f"{root} was filled by another process meanwhile; run again to check it ({error})"
            ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_split(root: Path, split: str, first: int, number: int, seed: int, workers: int) -> None:
    """Render scenes first, first + 1 ... as one split and write its json files."""
    for folder in (split, f"panoptic_{split}", f"stuff_{split}", "annotations"):
        (root / folder).mkdir(exist_ok=True)
    things = [c for c in CATEGORIES if c["isthing"]]
    keys = ("id", "name", "supercategory")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    segmentations: list[dict[str, Any]] = []
    start = time.monotonic()
    for image, objects, segmentation in _records(root, split, first, number, workers, seed):
        images.append(image)
        for record in objects:  # ids from 1: pycocotools treats a match with annotation 0 as none
            annotations.append({"id": len(annotations) + 1, **record})
        segmentations.append(segmentation)
        if len(images) * 10 // number > (len(images) - 1) * 10 // number:
            rate = len(images) / max(time.monotonic() - start, 1e-6)
            logger.info("%s: %d of %d, %.0f images per second", split, len(images), number, rate)
    sources = [{"file": name, "licence": licence} for name, (_, licence) in PHOTOS.items()]
    text = f"rmae_d2 scenes, {split}: objects rendered over photographs of scikit-image"
    info = {"description": text, "version": VERSION, "seed": seed, "sources": sources}
    head = {"info": info, "licenses": []}
    for form, categories, records in (
        ("instances", [{key: c[key] for key in keys} for c in things], annotations),
        ("panoptic", list(CATEGORIES), segmentations),
    ):
        content = {**head, "categories": categories, "images": images, "annotations": records}
        text = json.dumps(content, separators=(",", ":"))
        (root / "annotations" / f"{form}_{split}.json").write_text(text)


def _records(
    root: Path, split: str, first: int, number: int, workers: int, seed: int
) -> Iterator[Any]:
    """The records of the split's images, in order, however many processes create them."""
    task = partial(_write_image, root, split, seed, first)
    if workers == 1:
        yield from map(task, range(number))
        return
    # Like PyTorch's loaders, fork if possible: a spawned worker imports all of PyTorch first.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method))
    try:
        yield from pool.map(task, range(number), chunksize=8)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write_image(
    root: Path, split: str, seed: int, first: int, number: int
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Render image `number` of a split, write its three files, return its three json records."""
    scene = render_scene(seed, first + number)
    stem = f"{number:06d}"
    Image.fromarray(scene.image).save(root / split / f"{stem}.jpg", quality=_JPEG_QUALITY)
    Image.fromarray(scene.semantic()).save(root / f"stuff_{split}" / f"{stem}.png")
    ids, segments = panoptic_of(scene)
    rgb = (ids[:, :, None] >> np.array([0, 8, 16]) & 255).astype(
        np.uint8
    )  # id = R + 256 G + 65536 B
    Image.fromarray(rgb).save(root / f"panoptic_{split}" / f"{stem}.png")

    height, width = ids.shape
    image = {"id": number, "file_name": f"{stem}.jpg", "height": height, "width": width}
    image["photos"] = list(scene.photos)
    objects = []
    for mask, category_id in zip(scene.masks, scene.category_ids, strict=True):
        rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
        outline = {"size": list(map(int, rle["size"])), "counts": rle["counts"].decode("ascii")}
        of = {"image_id": number, "category_id": int(category_id), "segmentation": outline}
        objects.append({**of, **_extent(rle)})
    panoptic = {"image_id": number, "file_name": f"{stem}.png", "segments_info": segments}
    return image, objects, panoptic


def _extent(rle: dict[str, Any]) -> dict[str, Any]:
    """COCO's entries derived from a mask; the box is tight, [x, y, width, height]."""
    box = [int(side) for side in mask_util.toBbox(rle)]
    return {"area": int(mask_util.area(rle)), "bbox": box, "iscrowd": 0}
