"""Ground truth as regions: equal to pycocotools on real data, bad annotations, lookups, damage."""

import json
import logging
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from rmae_d2.annotations.segmentation import run_counts
from rmae_d2.errors import UserError
from rmae_d2.regions.record.masks import unpack_bits
from rmae_d2.regions.record.record import record_of_counts
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
    return {"id": 70, "image_id": 5, "iscrowd": 0, "segmentation": segmentation, **changes}


def photo(name="a.jpg", number=5, size=SIZE):
    return {"id": number, "file_name": name, "height": size[0], "width": size[1]}


def write(folder, annotations, images=None):
    file = folder / "instances.json"
    images = [photo()] if images is None else images
    file.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))
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


@given(st.data())
def test_run_lengths_in_every_form(data):
    size = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    masks = data.draw(arrays(np.bool_, (data.draw(st.integers(1, 17)), *size)))
    masks = masks[masks.any((1, 2))]
    forms = []
    for mask in masks:
        packed = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
        flat = np.concatenate(([False], mask.T.ravel(), [not mask[-1, -1]]))
        lengths = np.diff(np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]))))
        forms.append((packed, {**packed, "counts": packed["counts"].decode()}))
        forms[-1] += ({"size": list(size), "counts": lengths.tolist()},)
    for form in zip(*forms, strict=True):
        record = record_of_counts([run_counts(rle, size) for rle in form], size, {})
        np.testing.assert_array_equal(masks_of(record), masks)


@given(st.lists(st.lists(st.floats(-30, 60), min_size=6, max_size=20), min_size=1, max_size=3))
def test_polygons_are_joined_and_clipped_as_by_pycocotools(polygons):
    polygons = [polygon[: len(polygon) // 2 * 2] for polygon in polygons]
    expected = mask_util.decode(mask_util.merge(mask_util.frPyObjects(polygons, *SIZE)))
    counts = run_counts(polygons, SIZE)
    assert (counts is None) == (not expected.any())
    if counts is not None:
        np.testing.assert_array_equal(masks_of(record_of_counts([counts], SIZE, {}))[0], expected)


@given(st.binary(max_size=20) | st.text(max_size=20))
def test_any_string_is_a_mask_or_an_error(counts):
    try:
        found = run_counts({"size": [4, 5], "counts": counts}, (4, 5))
    except ValueError:
        return
    assert found is None or found.sum() == 20


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[*BOX, 1.0]], "9 numbers"),
        ([[*BOX, float("nan"), 1.0]], "from nan to nan in an image of 30x20"),
        ([[*BOX, 1e9, 1.0]], "to 1000000000.0"),
        ([[*BOX, "x", "y"]], "not a list of numbers"),
        (["box"], "not a list of numbers"),
        ("polygon", "segmentation is str"),
        ({"size": [30, 20], "counts": [0, 600]}, r"for size \[30, 20\].*image is \[20, 30\]"),
        ({"size": [20, 30], "counts": [0, 599]}, "add up to 599 pixels, the image has 600"),
        ({"size": [20, 30]}, "no list of integers"),
        ({"counts": [0, 600]}, "for size None"),
    ],
)
def test_damaged_segmentations_are_named(tmp_path, segmentation, message):
    file = write(tmp_path, [annotation([BOX]), annotation(segmentation, id=71)])
    with pytest.raises(ValueError, match=rf"instances\.json, annotation 71: .*{message}"):
        InstanceSource(file)(SAMPLE, IMAGE)
    sample = {**SAMPLE, "annotations": [annotation([BOX]), {"segmentation": segmentation}]}
    with pytest.raises(ValueError, match=rf"a\.jpg, annotation number 1 of the image: .*{message}"):
        InstanceSource()(sample, IMAGE)


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
    assert "4 masks of 2 images, 1 of which have none" in text
    assert "1 crowd annotations, 1 without segmentation, 2 polygons" in text
    assert record.num_masks == 1 and empty.num_masks == 0 and empty.size == SIZE
    reports = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(reports) == 1 and "annotation 1" in reports[0].getMessage()


# --------------------------------------------------------------------------- lookups


def test_images_are_found_by_id_path_and_name(tmp_path):
    names = {1: "x/a.jpg", 2: "y/a.jpg", 3: "b.jpg", 4: "x/ü.jpg", 9: "2014/c.jpg"}
    images = [photo(name, number) for number, name in names.items()]
    entries = [annotation([BOX[: 2 * (3 + n % 2)]], id=n, image_id=n) for n in names]
    entries += [annotation([BOX], id=100, image_id=4)]
    source = pickle.loads(pickle.dumps(InstanceSource(write(tmp_path, entries[::-1], images))))

    def found(file_name, image_id=None):
        image, annotations = source.json.find({"file_name": file_name, "image_id": image_id})
        assert {a["image_id"] for a in annotations} == {image["id"]}
        return image["id"], len(annotations)

    assert found("/photos/x/a.jpg", "x/a.jpg") == (1, 1)
    assert found("y/a.jpg") == (2, 1)
    assert found("/p/b.jpg", "set/b.jpg") == (3, 1)
    assert found("/p/b.png", 3) == (3, 1)
    assert found("/p/x/ü.jpg", "x/ü.jpg") == (4, 2)
    assert found("c.jpg", np.int64(9)) == (9, 1)
    assert found("/flat/c.jpg", 77) == (9, 1)
    with pytest.raises(ValueError, match=r"2 images called a\.jpg"):
        source({"file_name": "/flat/a.jpg"}, IMAGE)
    with pytest.raises(ValueError, match=r"image 3 is b\.jpg, the data set says q\.jpg"):
        source({"file_name": "q.jpg", "image_id": 3}, IMAGE)
    with pytest.raises(ValueError, match=r"instances\.json has no image q\.jpg \(image id 'q'\)"):
        source({"file_name": "q.jpg", "image_id": "q"}, IMAGE)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("indent", [None, 2])
def test_layouts_and_encodings_of_json(tmp_path, encoding, indent):
    content = {
        "categories": [{"name": 'ß, ["]}'}],
        "annotations": [annotation([BOX])],
        "images": [photo("ö.jpg" if encoding == "utf-8" else "o.jpg")],
        "licences": None,
    }
    text = "\n " + json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
    (tmp_path / "a.json").write_bytes(text.encode(encoding))
    source = InstanceSource(tmp_path / "a.json")
    assert source({"file_name": content["images"][0]["file_name"]}, IMAGE).num_masks == 1


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


def test_damaged_jsons_are_refused(tmp_path):
    text = write(tmp_path, [annotation([BOX])]).read_bytes()
    file = tmp_path / "cut.json"
    for keep in range(len(text)):
        file.write_bytes(text[:keep])
        with pytest.raises(ValueError, match=r"cut\.json is not usable"):
            InstanceSource(file)
    with pytest.raises(UserError, match=r"absent\.json"):
        InstanceSource(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("annotations", "images", "message"),
    [
        ([annotation([BOX])], [], "no images"),
        ([annotation([])], [photo()], "none of its annotations has a mask"),
        ([], [photo()], "none of its annotations has a mask"),
        ([annotation([BOX], image_id=8)], [photo()], "image id 8"),
        ([annotation([BOX], image_id="5")], [photo()], "image_id '5', no integer"),
        ([annotation([BOX])], [photo(), photo("b.jpg")], "image id 5 stands in it twice"),
        ([annotation([BOX])], [{"id": 5}], "neither file_name nor coco_url"),
        ([annotation([BOX])], [{"file_name": "a.jpg"}], "id None, no integer"),
        ([3], [photo()], "annotations hold a int"),
    ],
)
def test_other_jsons_are_refused(tmp_path, annotations, images, message):
    with pytest.raises(ValueError, match=rf"instances\.json is not usable .*{message}"):
        InstanceSource(write(tmp_path, annotations, images))


def test_a_json_changed_while_in_use_is_no_fault_of_the_image(tmp_path):
    file = write(tmp_path, [annotation([BOX])])
    source = InstanceSource(file)
    data = pickle.dumps(source)
    assert source(SAMPLE, IMAGE).num_masks == 1
    file.write_bytes(b" " * 10)
    for each in (source, pickle.loads(data)):
        with pytest.raises(RuntimeError, match="changed while in use"):
            each(SAMPLE, IMAGE)


def _areas(source, samples, image, queue):
    queue.put([source(sample, image).regions().area.tolist() for sample in samples])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_workers_share_one_open_file(tmp_path):
    images = [photo(f"{n}.jpg", n) for n in range(200)]
    entries = [
        annotation([[0, 0, 2 + n % 25, 0, 2 + n % 25, 5, 0, 5]], id=n, image_id=n)
        for n in range(200)
    ]
    source = InstanceSource(write(tmp_path, entries, images))
    samples = [{"file_name": f"{n}.jpg", "image_id": n} for n in range(200)] * 5
    expected = [source(sample, IMAGE).regions().area.tolist() for sample in samples]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_areas, args=(source, samples, IMAGE, queue)) for _ in "abc"]
    for worker in workers:
        worker.start()
    for _ in workers:
        assert queue.get(timeout=120) == expected
    for worker in workers:
        worker.join()


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
        with pytest.raises(ValueError, match=r"a\.png is no whole PNG"):
            PanopticSource(tmp_path)(SAMPLE, IMAGE)
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"a\.png has mode L.*panoptic_"):
        PanopticSource(tmp_path)(SAMPLE, IMAGE)
    write_png(path, np.zeros((10, 10), np.int32))
    with pytest.raises(ValueError, match=r"a\.png is of size \(10, 10\).*\(20, 30\)"):
        PanopticSource(tmp_path)(SAMPLE, IMAGE)
