"""Detection data for training and testing: registered, or somebody's own json and folder."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.datasets import register_coco_instances, register_lvis_instances
from detectron2.data.datasets.lvis import get_lvis_instances_meta
from detectron2.structures import BoxMode
from PIL import Image

from rmae_d2.data.datasets import (
    check_same_classes,
    detection_dataset,
    json_facts,
    own_dataset_name,
)
from rmae_d2.errors import AnnotationError, UserError
from tests.helpers import coco_rectangle


@pytest.fixture
def own(tmp_path):
    """Own data: three images, categories 9 and 4, the folders of json and images side by side."""
    folder = tmp_path / "photos"
    folder.mkdir()
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": 20 + i, "width": 30} for i in (3, 1, 2)
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
        "annotations": [
            coco_rectangle(1, 1, 9, [2, 2, 8, 8]),
            coco_rectangle(2, 1, 4, [10, 5, 6, 9]),
            coco_rectangle(3, 2, 4, [1, 1, 20, 10]),
            coco_rectangle(4, 3, 9, [5, 5, 5, 5]),
        ],
    }
    for image in content["images"]:
        size = (image["width"], image["height"])
        Image.new("RGB", size, (image["id"], 0, 0)).save(folder / image["file_name"])

    def write(change=lambda content: None, text=None):
        changed = copy.deepcopy(content)
        change(changed)
        path = tmp_path / "annotations/own.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(changed) if text is None else text)
        return str(path)

    yield write
    name = own_dataset_name(str(tmp_path / "annotations/own.json"))
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.pop(name)


def _ids(dicts):
    return [sample["image_id"] for sample in dicts]


def test_own_data(own, tmp_path):
    """Sorted images, contiguous classes in the order of their ids, the folder found or given."""
    path = own()
    dicts = detection_dataset(json=path)
    assert dicts == detection_dataset(("coco_2017_train",), path, str(tmp_path / "photos"))
    assert _ids(dicts) == [1, 2, 3]
    assert dicts[0]["file_name"] == str(tmp_path / "photos/1.png")
    assert (dicts[0]["height"], dicts[0]["width"]) == (21, 30)
    assert [a["category_id"] for a in dicts[0]["annotations"]] == [1, 0]
    assert json_facts(path) == (("cat", "dog"), (2, 2), True, False)
    metadata = MetadataCatalog.get(own_dataset_name(path))
    assert metadata.thing_classes == ["cat", "dog"] and metadata.has_masks
    assert _ids(DatasetCatalog.get(own_dataset_name(path))) == [1, 2, 3]


def test_the_mapper_takes_them(own):
    dicts = detection_dataset(json=own())
    mapper = DatasetMapper(
        is_train=True,
        augmentations=[T.RandomFlip(prob=1.0)],
        image_format="RGB",
        use_instance_mask=True,
        recompute_boxes=True,
    )
    instances = mapper(dicts[0])["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[20, 2, 28, 10], [14, 5, 20, 14]]
    assert instances.gt_classes.tolist() == [1, 0] and len(instances.gt_masks) == 2


def test_what_cannot_be_learned_from_is_left_out(own, caplog):
    def spoil(content):
        content["annotations"] += [
            coco_rectangle(5, 1, 9, [3, 3, 0, 5]),
            coco_rectangle(6, 1, 9, [3, 3, 5, 5], segmentation=[[3, 3, 8, 8]]),
            coco_rectangle(7, 999, 9, [3, 3, 5, 5]),
        ]
        content["annotations"][2]["iscrowd"] = 1
        content["annotations"][3]["bbox"] = [5, 5, -1, 5]

    path = own(spoil)
    with caplog.at_level("INFO"):
        dicts = detection_dataset(json=path)
    assert _ids(dicts) == [1, 3] and len(dicts[0]["annotations"]) == 2
    assert dicts[1]["annotations"][0]["bbox"] == [5, 5, 5, 5], "of its mask"
    for note in (
        "annotations whose box and mask have no area, left out: 1, such as 5",
        "annotations without a usable box, that of the mask is taken: 1, such as 4",
        "annotations of images that it does not list, left out: 1, such as 7",
    ):
        assert note in caplog.text
    assert "1 instances have no mask, nor a polygon of three points, such as in the images 1" in (
        caplog.text
    )
    assert "0 images without annotations and 1 with crowds only are left out" in caplog.text
    assert "2 images, 3 instances of 2 classes" in caplog.text
    assert _ids(detection_dataset(json=path, filter_empty=False)) == [1, 2, 3]


def test_nothing_left(own):
    def crowds(content):
        for annotation in content["annotations"][:3]:
            annotation["iscrowd"] = 1
        del content["annotations"][3]

    with pytest.raises(AnnotationError, match="none of its 3 images .*1 have none, 2 crowds only"):
        detection_dataset(json=own(crowds))
    without = own(lambda content: content.pop("annotations"))
    assert len(detection_dataset(json=without, filter_empty=False)) == 3  # a test set


def test_boxes_without_masks(own, caplog):
    def bare(content):
        for annotation in content["annotations"]:
            del annotation["segmentation"]

    path = own(bare)
    dicts = detection_dataset(json=path)
    assert "has boxes only, no masks: train a model without mask head" in caplog.text
    assert not MetadataCatalog.get(own_dataset_name(path)).has_masks
    assert sum(len(sample["annotations"]) for sample in dicts) == 4
    with pytest.raises(AnnotationError, match="has boxes only, and dataset.masks=true"):
        detection_dataset(json=path, masks=True)
    caplog.clear()
    assert detection_dataset(json=path, masks=False) == dicts
    # Masks that are there may be left aside; a box without mask then counts too.
    path = own(lambda content: content["annotations"][0].pop("segmentation"))
    assert detection_dataset(json=path, masks=False) == dicts
    assert "boxes only" not in caplog.text
    assert len(detection_dataset(json=path)[0]["annotations"]) == 1


def test_rle_masks(own):
    """Uncompressed RLE is compressed, as the mapper wants it."""
    rle = {"size": [21, 30], "counts": [0, 21, 609]}
    path = own(lambda content: content["annotations"][0].update(segmentation=rle))
    assert json_facts(path).has_rle
    instance = detection_dataset(json=path)[0]["annotations"][0]
    assert isinstance(instance["segmentation"]["counts"], bytes)
    mapper = DatasetMapper(
        is_train=True,
        augmentations=[],
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )
    masks = mapper(detection_dataset(json=path)[0])["instances"].gt_masks.tensor
    assert masks[0, :, 0].all() and not masks[0, :, 1:].any()


def test_absent_images(own, tmp_path, caplog):
    path = own()
    (tmp_path / "photos/2.png").unlink()
    with pytest.raises(UserError, match="1 of the 3 files .* are absent.*2.png.*At most 1%"):
        detection_dataset(json=path)
    assert _ids(detection_dataset(json=path, allow_missing=0.5)) == [1, 3]
    assert "They are left out" in caplog.text
    with pytest.raises(UserError, match=r"(?s)none of those.*dataset.root=") as error:
        detection_dataset(json=path, root=str(tmp_path / "elsewhere"))
    assert "image_root" not in str(error.value)
    with pytest.raises(UserError, match="no annotation file .*nowhere.json"):
        detection_dataset(json=str(tmp_path / "nowhere.json"))


def test_sizes_that_differ(own, tmp_path):
    path = own()
    Image.new("RGB", (60, 42)).save(tmp_path / "photos/1.png")
    message = (
        "1 of 3 images looked at .*1.png is 42x60 .height x width., not 21x30.*resized or turned"
    )
    with pytest.raises(AnnotationError, match=message):
        detection_dataset(json=path)
    # Turned by EXIF the sides change places: readers apply it.
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (21, 30)).save(tmp_path / "photos/1.png", exif=exif)
    assert len(detection_dataset(json=path)) == 3
    # What is not an image at all is the loader's business, which counts and names it.
    (tmp_path / "photos/1.png").write_bytes(b"no image")
    assert len(detection_dataset(json=path)) == 3


def test_jsons_that_cannot_be_used(own):
    with pytest.raises(AnnotationError, match="own.json is cut off"):
        detection_dataset(json=own(text='{"images": [{"id": 1'))
    with pytest.raises(AnnotationError, match="image id '3' twice: 3.png, 30x23 pixels, and 1.png"):
        detection_dataset(json=own(lambda c: c["images"][1].update(id=3)))
    with pytest.raises(AnnotationError, match="own.json is cut off"):
        json_facts(own(text='{"images": [{"id": 1'))


def test_a_changed_json_is_read_again(own):
    path = own()
    assert json_facts(path).classes == ("cat", "dog")
    content = json.loads(Path(path).read_text())
    content["categories"].append({"id": 1, "name": "bird"})
    Path(path).write_text(json.dumps(content))
    assert json_facts(path).classes == ("bird", "cat", "dog")
    detection_dataset(json=path)
    assert MetadataCatalog.get(own_dataset_name(path)).thing_classes == ["bird", "cat", "dog"]


def test_train_and_test_must_number_their_classes_alike(own, tmp_path):
    path = own()
    other = tmp_path / "other.json"
    content = json.loads(Path(path).read_text())
    content["annotations"] = []
    other.write_text(json.dumps(content))
    check_same_classes(path, str(other))
    content["categories"] = content["categories"][:1]
    other.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match="has 2 classes, .*other.json 1; .*0: cat / dog"):
        check_same_classes(path, str(other))


def test_names(own):
    with pytest.raises(UserError, match="'coco_2017_trian': did you mean coco_2017_train"):
        detection_dataset("coco_2017_trian")
    with pytest.raises(UserError, match="set dataset.names, dataset.root, or dataset.json"):
        detection_dataset()


@pytest.fixture
def registered(shared_data):
    """The real subsets, under names of their own: builtin ones follow the environment."""
    coco, lvis = "real_coco_for_training", "real_lvis_v1_for_training"
    images = shared_data / "coco/train2017"
    register_coco_instances(
        coco, {}, str(shared_data / "coco/annotations/instances_train2017.json"), str(images)
    )
    register_lvis_instances(
        lvis,
        get_lvis_instances_meta("lvis_v1"),
        str(shared_data / "lvis/lvis_v1_train.json"),
        f"{shared_data}/coco/",
    )
    yield coco, lvis
    for name in (coco, lvis):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_real_data_are_detectron2s(registered, shared_data):
    """By name and by json: the dicts that Detectron2's own function gives."""
    from detectron2.data import get_detection_dataset_dicts

    coco, lvis = registered
    expected = get_detection_dataset_dicts(coco)
    assert detection_dataset(coco) == expected
    path = shared_data / "coco/annotations/instances_train2017.json"
    assert detection_dataset(json=str(path)) == expected
    plain = detection_dataset(lvis)
    for sample in plain:
        for annotation in sample["annotations"]:
            assert annotation.pop("iscrowd") == 0  # LVIS has none
    assert plain == get_detection_dataset_dicts(lvis)
    both = shared_data / "lvis/lvis_v1_train.json"
    by_json = detection_dataset(json=str(both), root=str(shared_data / "coco"))
    assert [s["file_name"] for s in by_json] == [s["file_name"] for s in detection_dataset(lvis)]
    assert len(json_facts(str(both)).classes) == 1203
    with pytest.raises(UserError, match=f"{coco} and {lvis} have different classes"):
        detection_dataset((coco, lvis))


def test_a_registered_json_that_is_broken(tmp_path):
    for name, content, message in (
        ("broken_cut", '{"images": [', "is cut off"),
        ("broken_class", None, "does not list: '2' of annotation '1'"),
    ):
        path = tmp_path / f"{name}.json"
        entry = coco_rectangle(1, 1, 2, [1, 1, 2, 2])
        whole = {
            "images": [{"id": 1, "file_name": "a", "height": 4, "width": 4}],
            "categories": [{"id": 1, "name": "x"}],
            "annotations": [entry],
        }
        path.write_text(content or json.dumps(whole))
        register_coco_instances(name, {}, str(path), str(tmp_path))
        try:
            with pytest.raises(AnnotationError, match=f"{name}.json.*{message}"):
                detection_dataset(name)
        finally:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_boxes_of_somebodys_loader(own, caplog):
    """One without a reading is its mask's, the others stay as they are, in their own mode."""
    sample = detection_dataset(json=own())[0]
    first, second = sample["annotations"]
    good = {**first, "bbox": np.array([2, 2, 10, 10]), "bbox_mode": BoxMode.XYXY_ABS}
    bad = {**second, "bbox": [float("nan")] * 4}
    flat = {**second, "bbox": [3, 3, 0, 4], "segmentation": []}
    DatasetCatalog.register("by_hand", lambda: [{**sample, "annotations": [good, bad, flat]}])
    try:
        (found,) = detection_dataset("by_hand")
    finally:
        DatasetCatalog.remove("by_hand")
    kept, mended = found["annotations"]
    assert kept["bbox"] is good["bbox"] and kept["bbox_mode"] == BoxMode.XYXY_ABS
    assert mended["bbox"] == second["bbox"] and mended["bbox_mode"] == BoxMode.XYWH_ABS
    assert caplog.text.count("It is left out") == 1


@pytest.mark.parametrize(
    ("name", "absent", "get_it"),
    [
        ("coco_2017_train", "image_root", "http://images.cocodataset.org/zips/train2017.zip"),
        (
            "lvis_v1_train",
            "json_file",
            "https://dl.fbaipublicfiles.com/LVIS/lvis_v1_train.json.zip",
        ),
        ("scenes_val", "json_file", "rmae-d2 scenes"),
    ],
)
def test_missing_datasets_say_where_from(tmp_path, monkeypatch, name, absent, get_it):
    for key in ("json_file", "image_root"):
        monkeypatch.setitem(MetadataCatalog.get(name).__dict__, key, str(tmp_path / key))
        if key != absent:
            (tmp_path / key).touch()
    own = "own data:   dataset.json=FILE.json"
    with pytest.raises(UserError) as error:
        detection_dataset(name)
    for text in (f"looked for: {tmp_path / absent}\n", get_it, own):
        assert text in str(error.value)


# ------------------------------------------------------------------------- other formats than COCO's


@pytest.fixture
def yolo(tmp_path):
    """Two splits in YOLO's format; a polygon and a box to train on."""
    for split, lines in {
        "train": "1 0.2 0.5 0.2 0.4\n0 0.1 0.1 0.4 0.1 0.4 0.6 0.1 0.6",
        "val": "0 0.5 0.5 0.2 0.4",
    }.items():
        (tmp_path / "set/images" / split).mkdir(parents=True)
        (tmp_path / "set/labels" / split).mkdir(parents=True)
        Image.new("RGB", (100, 80)).save(tmp_path / f"set/images/{split}/a.jpg")
        (tmp_path / f"set/labels/{split}/a.txt").write_text(lines)
    (tmp_path / "set/data.yaml").write_text(
        "train: images/train\nval: images/val\nnames: [cat, dog]"
    )
    yield str(tmp_path / "set")
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in [name for name in catalog if str(tmp_path) in name]:
            catalog.pop(name)


def test_a_root_alone_is_recognised(yolo, caplog):
    with caplog.at_level("INFO"):
        (sample,) = detection_dataset(root=yolo, split="train", masks=False)
    assert f"{yolo} is read as YOLO (yolo), by data.yaml; its splits: train, val" in caplog.text
    assert sample["file_name"] == f"{yolo}/images/train/a.jpg"
    assert (sample["image_id"], sample["height"], sample["width"]) == (
        "images/train/a.jpg",
        80,
        100,
    )
    box, polygon = sample["annotations"]
    assert np.allclose(box["bbox"], [10, 24, 20, 32]) and box["category_id"] == 1
    assert np.allclose(polygon["bbox"], [10, 8, 30, 40]) and polygon["category_id"] == 0
    (sample,) = detection_dataset(root=yolo, split="train")
    (polygon,) = sample["annotations"]
    assert np.allclose(polygon["segmentation"], [[10, 8, 40, 8, 40, 48, 10, 48]])
    assert json_facts(f"yolo:{yolo}#train") == (("cat", "dog"), (1, 1), True, False)
    name = own_dataset_name(f"yolo:{yolo}#train")
    assert name == f"yolo:{yolo}#train" and len(DatasetCatalog.get(f"{yolo}#train")) == 1
    assert len(detection_dataset(root=yolo, masks=False)) == 2, "all splits"


def test_what_does_not_go_with_other_formats(yolo):
    with pytest.raises(
        UserError, match="dataset.root=/x does not apply: .* locates its images itself"
    ):
        detection_dataset(json=yolo, root="/x")
    with pytest.raises(UserError, match="format=yollo is not a known format: did you mean yolo"):
        detection_dataset(root=yolo, format="yollo")
    with pytest.raises(
        UserError, match="a folder of images, which says nothing of what is on them"
    ):
        detection_dataset(root=f"{yolo}/images")


@pytest.mark.parametrize("stored", [True, False])
def test_photos_that_exif_turns_annotated_in_either_orientation(tmp_path, caplog, stored):
    """The pixels under the box are the object's, whichever way the photo was shown to who drew it."""
    pixels = np.zeros((40, 60, 3), np.uint8)  # as stored; turned by 90 degrees to be shown
    pixels[5:15, 40:52] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=98)
    Image.new("RGB", (60, 40)).save(tmp_path / "b.jpg")
    size, box = ((40, 60), [40, 5, 12, 10]) if stored else ((60, 40), [25, 40, 10, 12])
    images = [
        {"id": 1, "file_name": "a.jpg", "height": size[0], "width": size[1]},
        {"id": 2, "file_name": "b.jpg", "height": 40, "width": 60},
    ]
    entries = [coco_rectangle(1, 1, 1, box), coco_rectangle(2, 2, 1, [1, 2, 3, 4])]
    categories = [{"id": 1, "name": "thing"}]
    path = tmp_path / "own.json"
    path.write_text(
        json.dumps({"images": images, "annotations": entries, "categories": categories})
    )
    first, second = detection_dataset(json=str(path))
    mapper = DatasetMapper(
        is_train=True,
        augmentations=[],
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )
    found = mapper(copy.deepcopy(first))
    assert found["image"].shape[1:] == size
    (mask,) = found["instances"].gt_masks.tensor
    white = found["image"].min(dim=0).values > 128
    assert (white == mask).float().mean() > 0.99 and mask.sum() == 120
    (left, top, right, bottom) = found["instances"].gt_boxes.tensor[0].int().tolist()
    assert white[top:bottom, left:right].float().mean() > 0.97
    assert second["file_name"] == str(tmp_path / "b.jpg")
    message = "1 photos that EXIF turns on their side were annotated as they are stored, such as"
    assert (message in caplog.text) == stored
