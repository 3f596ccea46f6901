"""Missing data sets: where they should be, and how to get them."""

import os
from collections.abc import Collection, Sequence

from ..errors import UserError, did_you_mean

_COCO = "http://images.cocodataset.org"
_SCENES = ("rmae-d2 scenes --output DIR/scenes",)
#: Where to get a registered data set, by the longest matching prefix of its name.
_SOURCES: dict[str, Sequence[str]] = {
    **{
        f"coco_{year}_{split}": (
            f"annotations {_COCO}/annotations/annotations_trainval{year}.zip",
            f"images      {_COCO}/zips/{split}{year}.zip",
        )
        for year in (2014, 2017)
        for split in ("train", "val")
    },
    "coco_2017_test": (
        f"annotations {_COCO}/annotations/image_info_test2017.zip",
        f"images      {_COCO}/zips/test2017.zip",
    ),
    "coco_2017_unlabeled": (f"images      {_COCO}/zips/unlabeled2017.zip",),
    "coco_2017_val_100": (
        "annotations "
        "https://dl.fbaipublicfiles.com/detectron2/annotations/coco/instances_val2017_100.json",
        f"images      {_COCO}/zips/val2017.zip",
    ),
    **{
        f"lvis_v1_{split}": (
            f"annotations https://dl.fbaipublicfiles.com/LVIS/lvis_v1_{split}.json.zip",
            f"images      {_COCO}/zips/train2017.zip and {_COCO}/zips/val2017.zip",
        )
        for split in ("train", "val")
    },
    "ade20k_sem_seg_": (
        "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip (about 1 GB), "
        "unpacked there as it is",
    ),
    "imagenet_1k_": (
        "https://image-net.org (free account), as imagenet/train/<class>/*.JPEG and "
        "imagenet/val/<class>/*.JPEG",
    ),
    "scenes_": _SCENES,
    "cub_200_": (
        "https://www.vision.caltech.edu/datasets/cub_200_2011 (CUB_200_2011.tgz, 1.1 GB), "
        "unpacked there as it is",
    ),
    "stanford_cars_": (
        "stanford_cars/ with cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat (its first "
        "site is gone; https://github.com/pytorch/vision/issues/7545 names others)",
    ),
    **{
        f"inaturalist_{year}_": (
            f"https://github.com/visipedia/inat_comp/tree/master/{year}, train{year}.json, val{year}.json "
            f"and the images unpacked in inaturalist_{year}/",
        )
        for year in (2017, 2018, 2019)
    },
}


def missing_dataset(name: str, places: Sequence[str], own: str, detail: str = "") -> UserError:
    """The error to raise if a registered data set does not exist.

    Args:
        name: registered name.
        places: the missing files or folders.
        own: the overrides that select the user's own data instead.
        detail: further information, such as another error's message.
    """
    variable = os.environ.get("DETECTRON2_DATASETS", "(not set, so ./datasets)")
    where = [*(os.path.abspath(place) for place in places), *([f"({detail})"] if detail else ())]
    lines = [
        f"the dataset {name} is not there.",
        f"  looked for: {', '.join(where)}",
        f"  DETECTRON2_DATASETS = {variable}",
    ]
    found = [key for key in _SOURCES if name.startswith(key)]
    if found:
        lines += [f"  get it:     {source}" for source in _SOURCES[max(found, key=len)]]
    lines += [
        f"  own data:   {own}",
        "  or try:     make demo (renders its own images, needs no download)",
    ]
    return UserError("\n".join(lines))


def unknown_dataset(name: str, known: Collection[str], own: str = "dataset.json") -> UserError:
    """The error to raise if no data set is registered under a name."""
    hint = did_you_mean(name, known, f"for own data set {own}")
    return UserError(f"no dataset is registered as {name!r}: {hint}")
