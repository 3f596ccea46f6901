"""Small data sets in exactly the layouts of official releases, with crops of real photos."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

CUB = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
CARS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012")
SPECIES = (("Aves", "Icterus gularis"), ("Insecta", "Limenitis arthemis"), ("Plantae", "Acer"))


@contextmanager
def registered_at(root: Path) -> Iterator[None]:
    """Our datasets registered under another root, as if DETECTRON2_DATASETS named it."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    import rmae_d2.data.datasets.builtin as builtin

    starts = ("cub_200_", "stanford_cars_", "inaturalist_")
    names = [name for name in DatasetCatalog.list() if name.startswith(starts)]
    saved = {name: (DatasetCatalog.pop(name), MetadataCatalog.pop(name)) for name in names}
    builtin.register_all(str(root))
    try:
        yield
    finally:
        for name, (function, metadata) in saved.items():
            DatasetCatalog[name], MetadataCatalog[name] = function, metadata


def put_photo(path: Path, number: int) -> None:
    """A crop of one of three photographs, another for each number."""
    from PIL import Image
    from skimage import data

    photo = (data.rocket(), data.coffee(), data.chelsea())[number % 3]
    crop = photo[number : number + 60, 2 * number : 2 * number + 80]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(crop).save(path)


def write_cub(root: Path) -> Path:
    """CUB-200-2011 with three classes of four images, two to train and two to test; its folder."""
    folder = root / "CUB_200_2011"
    lines: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": []}
    for number in range(12):
        label, image = number // 4, number + 1
        name = f"{CUB[label]}/{CUB[label][4:]}_{number:04}_{7 * number}.jpg"
        put_photo(folder / "images" / name, label + 3 * number)
        lines["images"].append(f"{image} {name}")
        lines["image_class_labels"].append(f"{image} {label + 1}")
        lines["train_test_split"].append(f"{image} {number % 2}")
    lines["classes"] = [f"{number} {name}" for number, name in enumerate(CUB, 1)]
    lines["bounding_boxes"] = [f"{image} 60.0 27.0 32.0 30.0" for image in range(1, 13)]
    for part, text in lines.items():
        (folder / f"{part}.txt").write_text("\n".join(text) + "\n")
    return folder


def cars_annotations(rows: list[tuple[str, int | None]]) -> np.ndarray[Any, Any]:
    """The struct array of the development kit, 1 x N; without classes as in the test images' own file."""
    boxes = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"]
    fields = [*boxes, *(["class"] if rows[0][1] is not None else []), "fname"]
    entries = np.empty((1, len(rows)), [(field, object) for field in fields])
    for k, (name, label) in enumerate(rows):
        entries[0, k]["fname"] = name
        if label is not None:
            entries[0, k]["class"] = np.uint8(label)
        for box in boxes:
            entries[0, k][box] = np.uint16(10 + k)
    return entries


def write_cars(root: Path) -> Path:
    """Stanford Cars with three classes, five images to train and three to test; its folder."""
    from scipy.io import savemat

    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    cell = np.empty((1, len(CARS)), object)
    cell[0, :] = CARS
    savemat(folder / "devkit/cars_meta.mat", {"class_names": cell})
    for split, labels in (("train", (3, 1, 2, 2, 1)), ("test", (2, 3, 1))):
        rows: list[tuple[str, int | None]] = [
            (f"{k:05}.jpg", label) for k, label in enumerate(labels, 1)
        ]
        for k, (name, label) in enumerate(rows):
            put_photo(folder / f"cars_{split}" / name, (label or 0) + 3 * k)
        place = "devkit/cars_train_annos" if split == "train" else "cars_test_annos_withlabels"
        savemat(folder / f"{place}.mat", {"annotations": cars_annotations(rows)})
    bare = cars_annotations([(name, None) for name, _ in rows])
    savemat(folder / "devkit/cars_test_annos.mat", {"annotations": bare})
    return folder


def write_inaturalist(root: Path, year: int) -> Path:
    """iNaturalist with three categories, six images to train and three to test; its folder."""
    folder = root / f"inaturalist_{year}"
    images_in = "train_val_images" if year == 2017 else f"train_val{year}"
    for split, count in (("train", 6), ("val", 3)):
        content: dict[str, Any] = {"info": {"year": year}, "images": [], "annotations": []}
        content["categories"] = [
            {"id": k, "name": name if year == 2017 else str(k), "supercategory": above}
            for k, (above, name) in enumerate(SPECIES)
        ]
        for k in range(count):
            above, name = SPECIES[k % 3]
            path = f"{images_in}/{above}/{name if year == 2017 else k % 3}/{split}{k}.jpg"
            put_photo(folder / path, 4 * k)
            identifier = 100 * (split == "val") + k
            image = {"id": identifier, "file_name": path, "width": 80, "height": 60}
            content["images"].append({**image, "license": 0, "rights_holder": "somebody"})
            label = {"id": identifier, "image_id": identifier, "category_id": k % 3}
            content["annotations"].append(label)
        (folder / f"{split}{year}.json").write_text(json.dumps(content))
    return folder
