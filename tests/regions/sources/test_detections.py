"""What detectors found, as regions: scores, limits, whose image it is, and files that are something else."""

import json
import logging
import pickle

import numpy as np
import pytest
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from rmae_d2.errors import AnnotationError, UserError
from rmae_d2.regions.record.masks import unpack_bits
from rmae_d2.regions.sources.detections import DetectionSource

SIZE = (20, 30)
IMAGE = np.zeros((*SIZE, 3), np.uint8)
SAMPLE = {"file_name": "/photos/a.jpg", "image_id": 5}


def masks_of(record):
    return unpack_bits(record.mask_bits, record.num_masks).astype(bool)


def rectangle(x, y, width, height, size=SIZE):
    mask = np.zeros(size, bool)
    mask[y : y + height, x : x + width] = True
    return mask


def rle(mask):
    packed = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": packed["counts"].decode()}


def detection(score=0.9, box=(2, 3, 10, 6), **changes):
    """A mask and its box."""
    fields = {"image_id": 5, "category_id": 1, "bbox": [float(x) for x in box], "score": score}
    return {**fields, "segmentation": rle(rectangle(*box)), **changes}


def boxed(score, box=(2, 3, 10, 6), **changes):
    found = detection(score, box, **changes)
    del found["segmentation"]
    return found


def write(folder, found, name="results.json"):
    file = folder / name
    file.write_text(json.dumps(found))
    return file


def source_of(folder, found, **settings):
    return DetectionSource(write(folder, found), **settings)


# ------------------------------------------------------------------------------------- masks


def test_the_most_certain_come_first(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    boxes = {0.3: (0, 0, 4, 4), 0.9: (1, 1, 6, 2), 0.5: (5, 5, 3, 3), 0.7: (20, 10, 10, 10)}
    source = source_of(tmp_path, [detection(score, box) for score, box in boxes.items()])
    record = source(SAMPLE, IMAGE)
    expected = [rectangle(*boxes[score]) for score in (0.9, 0.7, 0.5)]  # 0.5 is enough
    np.testing.assert_array_equal(masks_of(record), expected)
    assert record.regions().area.tolist() == [12, 100, 9] and record.params == source.params
    assert "3 detections with a score of 0.5 or more, 0 of them boxes without a mask" in caplog.text
    for settings, areas in (
        ({"min_score": 0.0}, [12, 100, 9, 16]),
        ({"min_score": 0.6}, [12, 100]),
        ({"max_masks": 1}, [12]),
        ({"min_score": 0.0, "max_masks": None}, [12, 100, 9, 16]),
    ):
        found = source_of(tmp_path, [detection(s, b) for s, b in boxes.items()], **settings)
        assert found(SAMPLE, IMAGE).regions().area.tolist() == areas


def test_a_hundred_of_an_image_and_equal_scores_in_the_files_order(tmp_path):
    found = [detection(0.8, (0, 0, 1 + k % 30, 1 + k // 30)) for k in range(120)]
    record = source_of(tmp_path, found)(SAMPLE, IMAGE)
    areas = [(1 + k % 30) * (1 + k // 30) for k in range(100)]
    assert record.regions().area.tolist() == areas


def test_every_form_of_a_mask(tmp_path):
    mask = rectangle(4, 2, 5, 7)
    counts = rle(mask)
    plain = mask_util.decode(counts).ravel(order="F")
    changes = np.flatnonzero(np.diff(plain)) + 1
    lengths = np.diff([0, *changes, plain.size]).tolist()
    forms = [
        *(counts, {"counts": lengths, "size": list(SIZE)}, json.dumps(counts), [counts]),
        *([[4, 2, 9, 2, 9, 9, 4, 9]], [4, 2, 9, 2, 9, 9, 4, 9]),
    ]
    found = [detection(0.9, segmentation=form) for form in forms]
    record = source_of(tmp_path, found)(SAMPLE, IMAGE)
    np.testing.assert_array_equal(masks_of(record), [mask] * len(forms))


def test_boxes_are_filled_where_there_is_no_mask(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    found = [
        *(boxed(0.9, (2, 3, 10, 6)), detection(0.8, (1, 1, 2, 2), segmentation=[])),
        *(boxed(0.7, bbox=[25.0, 15.0, 20.0, 20.0]), boxed(0.6, bbox=["3", "4.0", "5", "6"])),
    ]
    record = source_of(tmp_path, found)(SAMPLE, IMAGE)
    boxes = [(2, 3, 10, 6), (1, 1, 2, 2), (25, 15, 5, 5), (3, 4, 5, 6)]  # the third is cut off
    np.testing.assert_array_equal(masks_of(record), [rectangle(*box) for box in boxes])
    assert "4 of them boxes without a mask, in 1 images" in caplog.text


def test_masks_without_a_pixel_are_no_boxes(tmp_path):
    empty = rle(np.zeros(SIZE, bool))
    record = source_of(tmp_path, [detection(0.9, segmentation=empty)])(SAMPLE, IMAGE)
    assert record.num_masks == 0 and record.size == SIZE


def test_labels_of_real_photos_as_results(shared_data, tmp_path):
    """COCO's own objects, each with a score, give COCO's masks."""
    path = shared_data / "coco/annotations/instances_val2017.json"
    coco = COCO(path)
    found = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "score": 1 / (1 + k)}
        | {"segmentation": coco.annToRLE(a) | {"counts": coco.annToRLE(a)["counts"].decode()}}
        for k, a in enumerate(coco.anns.values())
    ]
    source = source_of(tmp_path, found, images_json=path, min_score=0, max_masks=None)
    total = 0
    for number, image in coco.imgs.items():
        blank = np.zeros((image["height"], image["width"], 3), np.uint8)
        expected = [coco.annToMask(a) for a in coco.imgToAnns[number]]
        by_id = source({"file_name": f"/x/{image['file_name']}", "image_id": number}, blank)
        by_name = source({"file_name": f"/x/{image['file_name']}", "image_id": "x"}, blank)
        assert by_id.num_masks == len(expected)
        if expected:
            np.testing.assert_array_equal(masks_of(by_id), expected)
        np.testing.assert_array_equal(by_name.mask_bits, by_id.mask_bits)
        total += len(expected)
    assert total == len(coco.anns) > 0


# ------------------------------------------------------------------------------ whose they are


@pytest.mark.parametrize(
    ("written", "image_id", "found"),
    [
        (139, 139, True),
        ("139", 139, True),
        (139.0, "000000000139.jpg", True),
        (139, "000000000139", True),
        ("clip1/0001.png", "clip1/0001.png", True),
        ("clip1/0001", "clip1/0001.png", True),
        ("clip1\\0001.png", "clip1/0001.png", True),
        ("0001", "clip1/0001.png", False),  # as many clips have one
        (1, "clip1/0001.png", False),
        ("0001.png", "clip1/0001.png", False),
        (138, 139, False),
    ],
)
def test_ids_alone(tmp_path, written, image_id, found):
    source = source_of(tmp_path, [detection(0.9, image_id=written)])
    sample = {"file_name": f"/photos/{image_id}", "image_id": image_id}
    if found:
        assert source(sample, IMAGE).regions().area.tolist() == [60]
    else:
        with pytest.raises(UserError, match=r"results\.json has no image .*images_json= takes"):
            source(sample, IMAGE)


def images_of(folder, *names, **more):
    images = [{"id": i + 1, "file_name": name, **more} for i, name in enumerate(names)]
    return write(folder, {"images": images}, "images.json")


def test_a_list_of_images_says_whose_they_are(tmp_path, caplog):
    listed = images_of(tmp_path, "clip1/0001.png", "clip2/0001.png", "clip2/0002.png")
    found = [
        *(detection(0.9, (0, 0, 2, 2), image_id=1), detection(0.9, (0, 0, 3, 3), image_id="2")),
        *(detection(0.2, image_id=3), detection(0.9, image_id=77)),
    ]
    source = source_of(tmp_path, found, images_json=listed)

    def areas(image_id, root="/frames"):
        sample = {"file_name": f"{root}/{image_id}", "image_id": image_id}
        return source(sample, IMAGE).regions().area.tolist()

    assert areas("clip1/0001.png") == [4] and areas("clip2/0001.png") == [9]
    assert areas("clip2/0002.png") == []  # nothing certain in it
    assert areas("0001.png", "/frames/clip2") == [9]
    assert "detections in images that " in caplog.text and "left out: 1, such as 77" in caplog.text
    with pytest.raises(UserError, match=r"images\.json has no image .*clip3/9\.png .*of this data"):
        areas("clip3/9.png")
    with pytest.raises(UserError, match=r"2 images called 0001\.png"):
        areas("0001.png")
    other = {"file_name": "/frames/b.png", "image_id": 1}
    with pytest.raises(UserError, match="image 1 is clip1/0001.png, the data set says /frames/b"):
        source(other, IMAGE)


def test_only_images_that_are_not_listed(tmp_path):
    listed = images_of(tmp_path, "a.jpg")
    with pytest.raises(AnnotationError, match=r"no detection in an image of .*such as 5"):
        source_of(tmp_path, [detection(0.9)], images_json=listed)


def test_sizes_must_be_those_of_the_image(tmp_path):
    turned = np.zeros((30, 20, 3), np.uint8)
    source = source_of(tmp_path, [detection(0.9)])
    with pytest.raises(UserError, match=r"with score 0\.9: segmentation has run lengths for size"):
        source(SAMPLE, turned)
    listed = images_of(tmp_path, *"bcdea", height=20, width=30)
    source = source_of(tmp_path, [boxed(0.9)], images_json=listed)
    assert source({"file_name": "a.jpg", "image_id": 5}, IMAGE).num_masks == 1
    with pytest.raises(UserError, match="turned by its EXIF orientation.*these very images"):
        source({"file_name": "a.jpg", "image_id": 5}, turned)
    far = source_of(tmp_path, [boxed(0.9, (200, 3, 10, 10))])
    with pytest.raises(UserError, match="far outside the image, 30x20 pixels"):
        far(SAMPLE, IMAGE)


# -------------------------------------------------------------------------------------- files


def test_params_are_of_the_files_and_the_settings(tmp_path):
    found = [detection(0.9)]
    source = source_of(tmp_path, found)
    assert json.loads(json.dumps(source.params)) == source.params
    assert source_of(tmp_path, found).params == source.params
    listed = images_of(tmp_path, *"bcdea")
    others = [
        *(source_of(tmp_path, [detection(0.8)]), source_of(tmp_path, found, min_score=0.1)),
        *(source_of(tmp_path, found, max_masks=7), source_of(tmp_path, found, images_json=listed)),
    ]
    assert all(other.params != source.params for other in others)
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy(SAMPLE, IMAGE).mask_bits, source(SAMPLE, IMAGE).mask_bits)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"images": [], "annotations": []}', "begins with .* and not with a list of detections"),
        ('"path"', "begins with .* and not with a list of detections"),
        ('[{"image_id": 1, "score": 0.9, "bbox": [1, 2', "is cut off .*: download, copy or unpack"),
        ('[{"image_id": 1,, "score": 0.9}]', "is not JSON .*: download, copy or unpack it again"),
        ("[] []", "is not JSON .*Extra data"),
        ("", "is cut off"),
        ("[]", "has no detection: give the results of a detector"),
        ("[3]", "'detections' holds '3'"),
    ],
)
def test_files_that_are_something_else(tmp_path, text, says):
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(AnnotationError, match=rf"results\.json .*{says}"):
        DetectionSource(file)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"score": None}, "score 'null' is not a finite number"),
        ({"score": float("nan")}, "score 'NaN' is not a finite number"),
        ({"score": "high"}, "score .* is not a finite number"),
        ({"image_id": None}, "image_id 'null' is not an id"),
        ({"image_id": [1]}, "image_id .* is not an id"),
        ({"bbox": None, "segmentation": None}, "bbox is 'null', and there is no segmentation"),
    ],
)
def test_one_in_ten_may_be_unreadable(tmp_path, caplog, changes, says):
    good, bad = [detection() for _ in range(9)], {**detection(), **changes}
    assert source_of(tmp_path, [*good, bad])(SAMPLE, IMAGE).num_masks == 9
    assert "detections that cannot be read, left out (entry 9 of 'detections'" in caplog.text
    with pytest.raises(AnnotationError, match=f"has 1 of 9 detections that cannot be read.*{says}"):
        source_of(tmp_path, [*good[1:], bad])


def test_settings(tmp_path):
    with pytest.raises(
        UserError, match=r"a score of 0\.5 or more, the highest is 0\.4: give a low"
    ):
        source_of(tmp_path, [detection(0.4), detection(0.1)])
    with pytest.raises(UserError, match="max_masks=0"):
        source_of(tmp_path, [detection(0.9)], max_masks=0)
    with pytest.raises(UserError, match=r"there is no file of results .*nowhere\.json"):
        DetectionSource(tmp_path / "nowhere.json")
    with pytest.raises(UserError, match=r"there is no annotation file .*images\.json"):
        source_of(tmp_path, [detection(0.9)], images_json=tmp_path / "images.json")
