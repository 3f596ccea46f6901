"""Unlabelled photos for pre-training: the user's own in any format, or a dataset's name."""

import hashlib
import logging
import os
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray

from ...annotations.missing import missing_dataset, unknown_dataset
from ...annotations.panoptic import read_panoptic
from ...errors import UserError
from ...packed import PackedImages
from ...photos.image_files import image_files
from ...photos.sources import from_folder, images_from

logger = logging.getLogger(__name__)

#: Datasets that use a whole image folder: listing it takes seconds, parsing COCO's json a minute and 2 GB.
_WHOLE_FOLDERS = {
    *("coco_2017_train", "coco_2017_val", "coco_2017_unlabeled"),
    *("imagenet_1k_train", "imagenet_1k_val", "scenes_train", "scenes_val"),
}

_OWN = "dataset.root=/photos (a folder, .txt list, COCO .json ..., see docs/labels.md)"

#: One in this many images is held out for evaluation, up to the second number.
_HELD_OUT_SHARE, _HELD_OUT_MOST = 10, 1000


def pretrain_dataset(
    names: Sequence[str] = ("coco_2017_train",),
    root: str | Path | None = None,
    image_root: str | Path | None = None,
    *,
    held_out: bool | None = None,
    format: str | None = None,
    split: str | None = None,
) -> Sequence[dict[str, Any]]:
    """List the images to pre-train on.

    COCO, ImageNet and scenes are listed from their image folders: no annotations are needed or read. Other
    registered datasets are used as registered, including annotations.

    Args:
        names: names in Detectron2's catalog; the datasets are concatenated.
        root: the user's own images instead of names, see `images_from`; likewise ``image_root``.
        held_out: True for the images reserved for evaluation, False for the others, None for all. A tenth is
            reserved, at most 1000, at least one: the images whose ids have the smallest SHA-256.
        format, split: for the user's own images, see `images_from`.

    Returns:
        dataset dicts. If image ids of several names collide, ids become ``name/id``.

    Raises:
        UserError: something is missing (says what, where it was expected, how to get it, and alternatives); a
            name is not registered (lists the closest ones); or a list is unreadable.
    """
    if root is not None:
        dicts = images_from(root, image_root, format=format, split=split)
        source = str(root)
    else:
        names = (names,) if isinstance(names, str) else tuple(names)
        sets = {name: _by_name(name) for name in names}
        dicts, source = (
            [sample for members in sets.values() for sample in members],
            ", ".join(names),
        )
        if len(sets) > 1 and len({sample["image_id"] for sample in dicts}) < len(dicts):
            for name, members in sets.items():
                for sample in members:
                    sample["image_id"] = f"{name}/{sample['image_id']}"
    if held_out is None:
        logger.info("%d images from %s", len(dicts), source)
        return dicts
    kept = _held_out(dicts, source)
    chosen = kept if held_out else ~kept
    text = (
        "%d images from %s, held out for evaluation"
        if held_out
        else "%d images from %s, %d held out"
    )
    logger.info(text, chosen.sum(), source, *([] if held_out else [kept.sum()]))
    if isinstance(dicts, PackedImages):
        return dicts.take(np.flatnonzero(chosen))
    return list(compress(dicts, chosen))


def _held_out(dicts: Sequence[dict[str, Any]], source: str) -> NDArray[np.bool_]:
    """Mask of held-out images, (N,): chosen by 8 bytes of each id's SHA-256, wherever the files are."""
    if isinstance(dicts, PackedImages):
        ids = dicts.keys()
    else:
        ids = (str(sample["image_id"]).encode("utf-8", "surrogatepass") for sample in dicts)
    hashes = (hashlib.sha256(text).digest()[:8] for text in ids)
    places = np.fromiter(hashes, "S8", len(dicts)).view(">u8").astype(np.uint64)
    ranks = np.unique(places)
    if len(ranks) < 2:
        raise UserError(
            f"{source} has one image, of which none can be held out for evaluation: set train.eval_period=0, "
            "or name others with dataloader.test.dataset.root"
        )
    return places < ranks[min(max(len(ranks) // _HELD_OUT_SHARE, 1), _HELD_OUT_MOST)]


def _by_name(name: str) -> list[dict[str, Any]]:
    if name not in DatasetCatalog:
        raise unknown_dataset(name, DatasetCatalog.list(), "dataset.root")
    metadata = MetadataCatalog.get(name)
    keys = ["json_file", "panoptic_json", "image_root", "image_dir", "sem_seg_root"]
    if whole := name in _WHOLE_FOLDERS:
        keys = ["image_root"]
    places = [metadata.get(key) for key in keys if isinstance(metadata.get(key), str)]
    absent = [place for place in places if not PathManager.exists(place)]
    if absent:
        raise missing_dataset(name, absent, _OWN)
    if metadata.get("panoptic_json") and metadata.get("panoptic_root"):
        return _from_panoptic(name)
    try:
        return from_folder(metadata.image_root) if whole else DatasetCatalog.get(name)
    except FileNotFoundError as error:
        raise missing_dataset(name, places, _OWN, str(error)) from error


def _from_panoptic(name: str) -> list[dict[str, Any]]:
    """Images with the PNG files of their segments."""
    metadata = MetadataCatalog.get(name)
    found = read_panoptic(metadata.panoptic_json, name)
    names = [entry.image.file_name for entry in found]
    files = image_files(metadata.panoptic_json, names, metadata.image_root)
    return [
        {
            "file_name": file,
            "image_id": entry.image.id,
            "pan_seg_file_name": os.path.join(metadata.panoptic_root, entry.png),
        }
        for file, entry in zip(files, found, strict=True)
    ]
