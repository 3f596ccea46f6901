"""Ground truth as regions: equal to pycocotools on real data, bad annotations, lookups, damage."""

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools.coco import COCO

from rmae_d2.errors import UserError
from rmae_d2.regions.record.masks import unpack_bits
from rmae_d2.regions.sources.annotations import InstanceSource, PanopticSource

SIZE = (20, 30)
IMAGE = np.zeros((*SIZE, 3), np.uint8)
BOX = [2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]
SAMPLE = {"file_name": "/photos/a.jpg", "image_id": 5}


def masks_of(record):
    return unpack_bits(record.mask_bits, record.num_masks)


def blank(image):
    return np.zeros((image["height"], image["width"], 3), np.uint8)


def annotation(segmentation, **changes):
    fields = {"id": 70, "image_id": 5, "iscrowd": 0, "bbox": [2, 3, 10, 6], "category_id": 1}
    return {**fields, "segmentation": segmentation, **changes}


def photo(name="a.jpg", number=5, size=SIZE):
    return {"id": number, "file_name": name, "height": size[0], "width": size[1]}


def write(folder, annotations, images=None):
    file = folder / "instances.json"
    images = [photo()] if images is None else images
    file.write_text(json.dumps({"images": images, "annotations": annotations}))
    return file


# ------------------------------------------------------------------ real annotations


@pytest.mark.parametrize(
    "name",
    [
        "coco/annotations/instances_train2017.json",
        "coco/annotations/instances_val2017.json",
        "lvis/lvis_v1_train.json",
        "lvis/lvis_v1_val.json",
    ],
)
def test_masks_are_those_of_pycocotools(shared_data, name):
    coco = COCO(shared_data / name)
    source = InstanceSource(shared_data / name, include_crowd=True)
    total = 0
    for number, image in coco.imgs.items():
        url = image["coco_url"].split("/")
        by_id = source({"file_name": url[-1], "image_id": number}, blank(image))
        path = "/".join(("/photos", *url[-2:]))
        by_name = source({"file_name": path, "image_id": url[-1]}, blank(image))
        expected = [coco.annToMask(each) for each in coco.imgToAnns[number]]
        assert by_id.num_masks == by_name.num_masks == len(expected)
        for mask, other, truth in zip(masks_of(by_id), masks_of(by_name), expected, strict=True):
            np.testing.assert_array_equal(mask, truth)
            np.testing.assert_array_equal(other, truth)
        total += len(expected)
    assert total == len(coco.anns) > 0


def test_detectron2_datasets_give_the_same(shared_data):
    coco_json = pytest.importorskip("detectron2.data.datasets.coco")
    file = shared_data / "coco/annotations/instances_train2017.json"
    for crowd in (False, True):
        by_json = InstanceSource(file, include_crowd=crowd)
        by_dataset = InstanceSource(include_crowd=crowd)
        for sample in coco_json.load_coco_json(file, shared_data / "coco/train2017"):
            bits = [each(sample, blank(sample)).mask_bits for each in (by_json, by_dataset)]
            np.testing.assert_array_equal(*bits)


def test_panoptic_segments_are_those_of_the_json(shared_data):
    content = json.loads((shared_data / "coco/annotations/panoptic_train2017.json").read_text())
    source = PanopticSource(shared_data / "coco/panoptic_train2017")
    for entry in content["annotations"]:
        path = shared_data / "coco/panoptic_train2017" / entry["file_name"]
        pixels = np.asarray(Image.open(path)).astype(int)
        ids = pixels @ [1, 256, 65536]
        name = entry["file_name"].replace(".png", ".jpg")
        record = source({"file_name": name, "image_id": entry["image_id"]}, pixels)
        table, labels = record.regions(), record.labels[0]
        expected = {segment["id"]: segment["area"] for segment in entry["segments_info"]}
        found = {
            int(ids[labels == n][0]): area
            for n, area in zip(table.label, table.area.tolist(), strict=True)
        }
        assert found == expected
        np.testing.assert_array_equal(labels == 0, ids == 0)
        _, first = np.unique(labels[labels > 0], return_index=True)
        assert (np.diff(first) > 0).all() and labels.max() == len(table)


# --------------------------------------------------------------------- segmentations


def test_damaged_segmentations_are_left_out_and_named(tmp_path, caplog):
    """Of a file as the reader of files does; of a data set's own dicts when it is their turn."""
    damaged = annotation([[*BOX, 1.0]], id=71)
    file = write(tmp_path, [*[annotation([BOX], id=n) for n in range(10)], damaged])
    assert InstanceSource(file)(SAMPLE, IMAGE).num_masks == 10
    assert "annotations that cannot be read, left out (annotation '71': segmentation has" in (
        caplog.text
    )
    caplog.clear()
    sample = {**SAMPLE, "annotations": [annotation([BOX]), damaged]}
    assert InstanceSource()(sample, IMAGE).num_masks == 1
    assert "a.jpg, annotation '71': segmentation has a polygon of 9 numbers" in caplog.text
    with pytest.raises(ValueError, match=r"instances\.json has 1 of 1 annotations that cannot"):
        InstanceSource(write(tmp_path, [damaged]))


def test_images_that_the_json_does_not_have(tmp_path):
    source = InstanceSource(write(tmp_path, [annotation([BOX])]))
    with pytest.raises(ValueError, match=r"instances\.json has no image q\.jpg \(image id 'q'\)"):
        source({"file_name": "q.jpg", "image_id": "q"}, IMAGE)


def test_what_gives_no_region_is_left_out_and_counted(tmp_path, caplog):
    outside = [-9.0, -9.0, -5.0, -9.0, -5.0, -5.0]
    segmentations = [[BOX, [1.0, 2.0]], [[1.0, 2.0, 3.0, 4.0]], [], [outside], [outside]]
    entries = [annotation(s, id=n) for n, s in enumerate(segmentations)]
    entries.append(annotation([BOX], id=9, iscrowd=1))
    file = write(tmp_path, entries, [photo(), photo("b.jpg", 6)])
    with caplog.at_level(logging.INFO, "rmae_d2"):
        source = InstanceSource(file)
        text = caplog.text
        record = source(SAMPLE, IMAGE)
        empty = source({"file_name": "b.jpg"}, IMAGE)
    assert "3 masks of 2 images, 1 of which have none" in text
    assert "1 crowd annotations, 2 without segmentation" in text
    assert record.num_masks == 1 and empty.num_masks == 0 and empty.size == SIZE
    reports = [r for r in caplog.records if r.levelno == logging.WARNING and "regions" in r.name]
    assert len(reports) == 1 and "masks without a pixel" in reports[0].getMessage()


# --------------------------------------------------------------------------- lookups


def test_another_size_is_an_error(tmp_path):
    source = InstanceSource(write(tmp_path, [annotation([BOX])]))
    with pytest.raises(ValueError, match=r"(?s)a\.jpg.*instances\.json.*\(20, 30\).*\(40, 60\)"):
        source(SAMPLE, np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(ValueError, match="turned by its EXIF"):
        source(SAMPLE, np.zeros((30, 20, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a\.jpg.*\(20, 30\)"):
        InstanceSource()({**SAMPLE, **photo(), "annotations": []}, np.zeros((4, 4, 3), np.uint8))


def test_a_data_set_without_annotations_says_so():
    with pytest.raises(ValueError, match=r"no `annotations` for /photos/a\.jpg.*json_file"):
        InstanceSource()(SAMPLE, IMAGE)
    with pytest.raises(ValueError, match=r"no `pan_seg_file_name` for /photos/a\.jpg.*folder"):
        PanopticSource()(SAMPLE, IMAGE)


def test_params_follow_the_contents_of_the_json(tmp_path):
    (tmp_path / "b").mkdir()
    file = write(tmp_path, [annotation([BOX])])
    same = write(tmp_path / "b", [annotation([BOX])])
    assert InstanceSource(file).params == InstanceSource(same).params
    assert json.loads(json.dumps(InstanceSource(file).params)) == InstanceSource(file).params
    other = InstanceSource(write(tmp_path / "b", [annotation([BOX[:6]])]))
    assert other.params["annotations"] != InstanceSource(file).params["annotations"]
    assert InstanceSource(file)(SAMPLE, IMAGE).params == InstanceSource(file).params


# -------------------------------------------------------------------------- panoptic


def write_png(path, ids):
    pixels = np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], -1).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@given(ids=arrays(np.int32, SIZE, elements=st.sampled_from([0, 1, 255, 256, 65536, 2**24 - 1])))
def test_any_ids_are_one_label_each_in_raster_order(tmp_path_factory, ids):
    folder = tmp_path_factory.mktemp("panoptic")
    write_png(folder / "a.png", ids)
    source = pickle.loads(pickle.dumps(PanopticSource(folder)))
    record = source(SAMPLE, IMAGE)
    order = {0: 0}
    for value in ids.ravel().tolist():
        order.setdefault(value, len(order))
    np.testing.assert_array_equal(record.labels[0], np.vectorize(order.get)(ids))
    assert record.ignore_label == 0 and record.labels.dtype == np.uint8
    assert len(record.regions()) == len(order) - 1


def test_more_than_255_segments(tmp_path):
    write_png(tmp_path / "a.png", np.arange(1, 601).reshape(SIZE))
    record = PanopticSource(tmp_path)(SAMPLE, IMAGE)
    np.testing.assert_array_equal(record.labels[0], np.arange(1, 601).reshape(SIZE))


def test_panoptic_file_of_the_data_set(tmp_path):
    write_png(tmp_path / "other.png", np.full(SIZE, 3))
    sample = {**SAMPLE, "pan_seg_file_name": str(tmp_path / "other.png")}
    record = PanopticSource()(sample, IMAGE)
    assert record.params == {"source": "panoptic"} and record.regions().area.tolist() == [600]
    with pytest.raises(FileNotFoundError, match=r"a\.png\. Give the folder"):
        PanopticSource(tmp_path)(sample, IMAGE)
    with pytest.raises(UserError, match="no folder .*absent"):
        PanopticSource(tmp_path / "absent")


def test_other_files_than_panoptic_pngs_are_refused(tmp_path):
    path = Path(tmp_path, "a.png")
    write_png(path, np.arange(600).reshape(SIZE))
    data = path.read_bytes()
    for keep in (0, 10, 60, len(data) // 2):
        path.write_bytes(data[:keep])
        with pytest.raises(ValueError, match=r"a\.png is not a complete PNG"):
            PanopticSource(tmp_path)(SAMPLE, IMAGE)
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"a\.png has mode L.*panoptic_"):
        PanopticSource(tmp_path)(SAMPLE, IMAGE)
    write_png(path, np.zeros((10, 10), np.int32))
    with pytest.raises(ValueError, match=r"a\.png is of size \(10, 10\).*\(20, 30\)"):
        PanopticSource(tmp_path)(SAMPLE, IMAGE)
