"""What `rmae-d2 inspect SET` says of data sets with known faults."""

import json
import re

import numpy as np
import pytest
import tifffile
from PIL import Image

from rmae_d2.annotations.coco import forget_annotations
from rmae_d2.inspection.dataset import inspect_dataset
from tests.helpers import coco_rectangle

H, W = 60, 80


def picture(seed, size=(H, W)):
    """Smooth blots, that survive to be scaled and compressed."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC)


def write(folder, images, annotations, categories=("cat", "dog")):
    content = {
        "images": [
            {"id": k, "file_name": name, "height": h, "width": w}
            for k, (name, h, w) in enumerate(images)
        ],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(categories)],
    }
    path = folder / "labels.json"
    path.write_text(json.dumps(content))
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """Twelve good photos."""
    for k in range(12):
        picture(k).save(tmp_path / f"{k:02d}.jpg", quality=95)
    yield tmp_path
    forget_annotations()


def good(folder):
    return [(f"{k:02d}.jpg", H, W) for k in range(12)]


def rectangles(count=12):
    return [coco_rectangle(k, k, k % 2, [5, 5, 20, 10]) for k in range(count)]


def findings(list_):
    return {f.what: (f.times, f.such_as) for f in list_}


def test_a_good_set(folder):
    found = inspect_dataset(write(folder, good(folder), rectangles()))
    assert not found.wrong and not found.odd
    assert "12 images, 12 of them can be read" in found.lines[0]
    assert (
        found.lines[1] == "1 sizes, width x height: 80x60 (12); widths 80 to 80, heights 60 to 60"
    )
    assert found.lines[3].startswith("12 objects, 0 of them crowds: 12 with polygons, 0 with run")
    assert found.lines[4].startswith("side of a box (root of its area): 14 pixels in the middle")
    assert re.search(r"JPEG, RGB +\| +12 ", found.tables[0])
    assert re.search(r"cat +\| +0 +\| +6 +\| +6 ", found.tables[1])
    assert str(found).endswith("nothing is wrong")


def test_every_fault_is_named(folder):
    raw = (folder / "00.jpg").read_bytes()
    (folder / "00.jpg").write_bytes(raw[: len(raw) // 2])
    (folder / "01.jpg").unlink()
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(2).save(folder / "02.jpg", exif=turned)
    objects = rectangles()
    objects[3] = coco_rectangle(3, 3, 0, [90, 5, 20, 10])
    objects[4] = coco_rectangle(4, 4, 0, [70, 5, 20, 10])
    objects[5] |= {"segmentation": [[5, 5, 15, 5, 25, 5]], "bbox": [5, 5, 20, 4]}
    objects[6] |= {"bbox": None, "segmentation": []}
    images = good(folder)
    images[7] = ("07.jpg", H, W + 1)
    found = inspect_dataset(write(folder, images, objects, ("cat", "dog", "cow")))
    wrong, odd = findings(found.wrong), findings(found.odd)
    count, such_as = wrong["images cannot be read"]
    assert count == 2 and "00.jpg (it is damaged or cut short" in such_as
    assert "01.jpg (there is no such file)" in such_as
    assert wrong["boxes lie outside their image"] == (1, "annotation 3 of 03.jpg")
    assert wrong["masks have no area"] == (1, "annotation 5 of 05.jpg")
    assert wrong["labels do not fit their photo"] == (
        1,
        f"{folder}/07.jpg (80x60, labels for 81x60)",
    )
    left_out = [
        what for what in wrong if what.startswith("annotations that cannot be read, left out")
    ]
    assert len(wrong) == 5 and "bbox 'null' is not [x, y, width, height]" in left_out[0]
    assert odd.pop("boxes reach beyond their image and are clipped") == (
        1,
        "annotation 4 of 04.jpg",
    )
    assert odd.pop("classes without an object") == (1, "cow")
    what = "photos that EXIF turns were annotated as they are stored, and are read so"
    assert odd.pop(what) == (1, f"{folder}/02.jpg")
    assert not odd
    assert len(found.files) == 10


def test_pictures_that_are_there_twice(folder):
    """The same bytes, and a smaller copy; even pictures say nothing."""
    (folder / "copy.jpg").write_bytes((folder / "03.jpg").read_bytes())
    Image.open(folder / "04.jpg").resize((64, 48), Image.Resampling.BICUBIC).save(
        folder / "small.png"
    )
    for name, level in (("black.png", 0), ("white.png", 255)):
        Image.new("RGB", (40, 40), (level,) * 3).save(folder / name)
    found = inspect_dataset(str(folder))
    assert findings(found.odd) == {
        "files that are there more than once": (1, "03.jpg = copy.jpg"),
        "pictures that are nearly the same": (1, "04.jpg = small.png"),
    }


def test_kinds_of_images(tmp_path):
    picture(0).convert("L").save(tmp_path / "a.png")
    picture(1).convert("RGBA").save(tmp_path / "b.png")
    picture(2).convert("CMYK").save(tmp_path / "c.jpg")
    Image.fromarray(np.full((9, 9), 900, np.uint16)).save(tmp_path / "d.png")
    turned = Image.Exif()
    turned[0x0112] = 8
    picture(3).save(tmp_path / "e.jpg", exif=turned)
    kinds = inspect_dataset(str(tmp_path)).tables[0]
    for kind in ("PNG, grey", "PNG, RGB with transparency", "JPEG, CMYK", "PNG, 16-bit grey"):
        assert re.search(rf"\| {kind} +\| +1 \|", kinds)
    assert re.search(r"\| JPEG, RGB, turned by EXIF +\| +1 \|", kinds)


def test_statistics_are_those_of_all_pixels(tmp_path):
    levels = [(0, 0, 10), (100, 50, 10), (200, 250, 40)]
    for k, level in enumerate(levels):
        Image.new("RGB", (10 * (k + 1), 8), level).save(tmp_path / f"{k}.png")
    pixels = np.concatenate([np.full((80 * (k + 1), 3), level) for k, level in enumerate(levels)])
    mean, std = (",".join(f"{x:.2f}" for x in f(pixels, axis=0)) for f in (np.mean, np.std))
    expected = f"of 3 images: model.pixel_mean=[{mean}] model.pixel_std=[{std}]"
    assert inspect_dataset(str(tmp_path), statistics=True).lines[-1].endswith(expected)
    assert not any("pixel_mean" in line for line in inspect_dataset(str(tmp_path)).lines)
    some = inspect_dataset(str(tmp_path), statistics=True, sample=1).lines[-1]
    assert some.endswith(
        "of 1 images: model.pixel_mean=[0.00,0.00,10.00] model.pixel_std=[1.00,1.00,1.00]"
    )


def test_class_folders(tmp_path):
    for k, name in enumerate(
        ("train/ant/a.png", "train/ant/b.png", "train/bee/c.png", "val/bee/d.png")
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(k).save(tmp_path / name)
    text = inspect_dataset(str(tmp_path)).tables[1]
    for folder, count in (("train/ant", 2), ("train/bee", 1), ("val/bee", 1)):
        assert re.search(rf"\| {folder} +\| +{count} \|", text)


def test_the_same_picture_in_training_and_validation_is_found(tmp_path):
    """The leak that makes results too good."""
    for split, quality in (("train", 95), ("val", 60)):
        (tmp_path / split).mkdir()
        picture(1).save(tmp_path / split / "a.jpg", quality=quality)
        picture(2 if split == "train" else 3).save(tmp_path / split / "b.jpg")
    found = findings(inspect_dataset(str(tmp_path)).odd)
    assert found == {"pictures that are nearly the same": (1, "train/a.jpg = val/a.jpg")}


def test_yolo_by_split(tmp_path):
    for split in ("train", "val"):
        for part in ("images", "labels"):
            (tmp_path / part / split).mkdir(parents=True)
        picture(len(split)).save(tmp_path / f"images/{split}/a.png")
        (tmp_path / f"labels/{split}/a.txt").write_text("1 0.5 0.5 0.2 0.4\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    found = inspect_dataset(f"{tmp_path}#val")
    assert found.title.endswith("#val: YOLO") and "1 images, 1 of them" in found.lines[0]
    assert re.search(r"\| dog +\| +1 \| +1 \| +1 \|", found.tables[1])


def test_real_labels(shared_data):
    found = inspect_dataset(str(shared_data / "coco/annotations/instances_val2017.json"))
    assert not found.wrong
    assert found.lines[2] == "24 images are listed, 0 of them without objects; 80 classes"
    assert found.lines[3].startswith("116 objects, 0 of them crowds: 116 with polygons")
    assert found.tables[1].endswith("and 40 classes more")


def test_many_bands(tmp_path):
    """Statistics are of all bands as they are stored; values that are not data do not count."""
    values = np.random.default_rng(0).normal(1000, 50, (30, 40, 6)).astype(np.float32)
    values[:5] = -1
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    for k in range(2):
        tag = [(42113, "s", 0, "-1", True)]
        tifffile.imwrite(tmp_path / f"{k}.tif", values + k * (values > 0), extratags=tag, **options)
    found = inspect_dataset(str(tmp_path), statistics=True)
    known = np.concatenate([(values[5:] + k).reshape(-1, 6) for k in range(2)])
    mean = ",".join(f"{x:.2f}" for x in known.mean(axis=0, dtype=np.float64))
    assert f"model.pixel_mean=[{mean}]" in found.lines[-1]
    assert re.search(r"TIFF, 6 bands, more than 8 bits +\| +2 ", found.tables[0])
    assert not found.wrong
