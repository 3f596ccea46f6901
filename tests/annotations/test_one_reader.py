"""Odd annotation files: one answer for each value, the same in training, evaluation and region sources."""

import copy
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from detectron2.data import DatasetMapper
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_util

from rmae_d2.annotations.coco import read_annotations
from rmae_d2.annotations.segmentation import compressed
from rmae_d2.data.datasets import detection_dataset
from rmae_d2.errors import AnnotationError
from rmae_d2.evaluation.ground_truth import load_ground_truth
from rmae_d2.regions import InstanceSource, unpack_bits
from tests.helpers import HUNG, coco_rectangle

SIZES = {1: (24, 32), 2: (32, 24), 3: (20, 20)}


def rle(box, size, compress):
    """A rectangle's run lengths."""
    x, y, w, h = box
    mask = np.zeros(size, np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    if compress:
        packed = mask_util.encode(mask)
        return {"size": list(size), "counts": packed["counts"].decode()}
    first, last = x * size[0] + y, (size[1] - x - w + 1) * size[0] - y - h
    return {"size": list(size), "counts": [first, *[h, size[0] - h] * (w - 1), h, last]}


def original():
    """Three photos, two classes, twelve objects: polygons, run lengths of both kinds, one crowd."""
    annotations = []
    for number in range(12):
        image = number % 3 + 1
        box = [2 + number // 3, 3 + image, 5 + number // 3, 4 + image]
        annotations.append(coco_rectangle(number + 1, image, 3 + 4 * (number % 2), box))
        if number % 4:
            mask = rle(box, SIZES[image], number % 4 == 2)
            annotations[-1]["segmentation"] = (
                mask if number % 4 < 3 else mask | {"counts": mask["counts"]}
            )
    annotations[10]["iscrowd"] = 1
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": h, "width": w}
            for i, (h, w) in SIZES.items()
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": annotations,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("odd")
    for number, (height, width) in SIZES.items():
        Image.new("RGB", (width, height)).save(place / f"{number}.png")
    return place


def write(folder, content):
    path = folder / "own.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


MAPPER = DatasetMapper(
    is_train=True,
    augmentations=[],
    image_format="RGB",
    use_instance_mask=True,
    instance_mask_format="bitmask",
    recompute_boxes=True,
)


def of_training(path):
    """What the loader and Detectron2's mapper make of it: objects, and masks of those that are not crowd."""
    every = [
        (s["image_id"], a["category_id"], *np.round(a["bbox"], 3), a["iscrowd"])
        for s in detection_dataset(json=path, filter_empty=False, masks=False)
        for a in s["annotations"]
    ]
    masks = []
    for sample in detection_dataset(json=path, filter_empty=False):
        crowds = [a for a in sample["annotations"] if a["iscrowd"]]
        if len(crowds) < len(sample["annotations"]) and "segmentation" in sample["annotations"][0]:
            found = MAPPER(copy.deepcopy(sample))["instances"]
            masks += [(sample["image_id"], m.numpy()) for m in found.gt_masks]
        sizes = [
            mask_util.area(a["segmentation"])
            for a in crowds
            if "counts" in a.get("segmentation", ())
        ]
        assert all(0 < size <= sample["height"] * sample["width"] for size in sizes)
    return every, masks


def of_evaluation(path):
    truth = load_ground_truth("", None, json=path)
    number = {identifier: k for k, identifier in truth.classes.items()}
    every, masks = [], []
    for a in truth.for_task("bbox")["annotations"]:
        crowd = a["iscrowd"]
        every.append((a["image_id"], number[a["category_id"]], *np.round(a["bbox"], 3), crowd))
        if "segmentation" in a and not crowd:
            packed = compressed(a["segmentation"], truth.image_sizes[a["image_id"]])
            masks.append((a["image_id"], mask_util.decode(packed).astype(bool)))
        assert a["area"] >= 0
    return every, masks


def of_regions(path):
    if not any(i.mask and not i.iscrowd for _, found in read_annotations(path) for i in found):
        return []  # refused, for there is nothing to train on
    source, masks = InstanceSource(path), []
    for sample in detection_dataset(json=path, filter_empty=False):
        record = source(sample, np.zeros((sample["height"], sample["width"], 3), np.uint8))
        masks += [(sample["image_id"], m) for m in unpack_bits(record.mask_bits, record.num_masks)]
    return masks


def answers(path):
    """All three readings, which must agree; or the error, which must be the same."""
    found = []
    for read in (of_training, of_evaluation, of_regions):
        try:
            found.append(read(path))
        except AnnotationError as error:
            found.append(str(error))
    if isinstance(found[0], str):
        assert found[0] == found[1] == found[2] and path in found[0]
        return found[0]
    assert not any(isinstance(reading, str) for reading in found), found
    (every, masks), (truth, truth_masks), regions = found
    assert every == truth
    assert same(masks, truth_masks) and same(masks, regions)
    return Reading((every, masks))


class Reading(tuple):
    """Objects and masks; short where a test that failed prints it."""

    def __repr__(self):
        return f"{len(self[0])} objects, {len(self[1])} masks"


def same(some, others):
    """Whether masks are of the same images and have the same pixels; those without a pixel do not count."""
    some, others = ([(i, m) for i, m in masks if m.any()] for masks in (some, others))
    return len(some) == len(others) and all(
        i == j and np.array_equal(a, b) for (i, a), (j, b) in zip(some, others, strict=True)
    )


@pytest.fixture(scope="module")
def right(folder):
    return answers(write(folder, original()))


def test_what_is_right_is_read(right):
    every, masks = right
    assert len(every) == 12 and len(masks) == 11
    expected = [a for image in SIZES for a in original()["annotations"] if a["image_id"] == image]
    assert [list(e[2:6]) for e in every] == [a["bbox"] for a in expected]
    areas = [a["area"] for a in expected if not a["iscrowd"]]
    assert [int(mask.sum()) for _, mask in masks] == areas


# ---------------------------------------------------------------------------- what has one reading


def each(section, **changes):
    """Changes fields of every entry, by functions of the value."""

    def change(content):
        for entry in content[section]:
            for key, function in changes.items():
                entry[key] = function(entry[key])

    return change


def polygons(function):
    def change(content):
        for a in content["annotations"]:
            if isinstance(a["segmentation"], list):
                a["segmentation"] = function(a["segmentation"])

    return change


def runs(function):
    def change(content):
        for a in content["annotations"]:
            if isinstance(a["segmentation"], dict):
                a["segmentation"] = function(a["segmentation"])

    return change


def pairs(polygon):
    return [list(point) for point in zip(polygon[::2], polygon[1::2], strict=True)]


def counts_only(function):
    """Of run lengths that are a list."""
    return runs(
        lambda m: m | {"counts": function(m["counts"])} if isinstance(m["counts"], list) else m
    )


READ = {
    "annotation ids twice": each("annotations", id=lambda _: 1),
    "no annotation ids": lambda c: [a.pop("id") for a in c["annotations"]],
    "ids as text": each("annotations", image_id=str, category_id=str, id=str),
    "ids as floats": each("annotations", image_id=float, category_id=float),
    "category ids as text, listed": each("categories", id=str),
    "category ids of two types": lambda c: c["categories"][0].update(id="7"),
    "image sizes as text": each("images", height=str, width=lambda v: f" {v}.0 "),
    "image sizes as floats": each("images", height=float, width=float),
    "crowd as booleans": each("annotations", iscrowd=bool),
    "crowd as text": each("annotations", iscrowd=str),
    "crowd as words": each("annotations", iscrowd=lambda v: "True" if v else "false"),
    "boxes as text": each("annotations", bbox=lambda v: [str(x) for x in v]),
    "boxes as JSON": each("annotations", bbox=json.dumps),
    "boxes in a list": each("annotations", bbox=lambda v: [v]),
    "boxes lost": each("annotations", bbox=lambda _: None),
    "boxes not numbers": each("annotations", bbox=lambda v: [*v[:3], float("nan")]),
    "boxes far away": each("annotations", bbox=lambda v: [*v[:3], 1e9]),
    "areas lost": each("annotations", area=lambda _: -1),
    "areas as lists": each("annotations", area=lambda v: [v]),
    "one polygon's numbers": polygons(lambda p: p[0]),
    "a list too many": polygons(lambda p: [p]),
    "points": polygons(lambda p: pairs(p[0])),
    "points in a list": polygons(lambda p: [pairs(p[0])]),
    "coordinates as text": polygons(lambda p: [[str(x) for x in p[0]]]),
    "one polygon's numbers as text": polygons(lambda p: [str(x) for x in p[0]]),
    "polygons as JSON": polygons(json.dumps),
    "a short polygon beside": polygons(lambda p: [*p, [1, 1, 2, 2]]),
    "run lengths in a list": runs(lambda m: [m]),
    "run lengths as JSON": runs(json.dumps),
    "sizes as text": runs(lambda m: m | {"size": [str(x) for x in m["size"]]}),
    "sizes as floats": runs(lambda m: m | {"size": [float(x) for x in m["size"]]}),
    "sizes lost": runs(lambda m: {"counts": m["counts"]}),
    "counts as floats": counts_only(lambda c: [float(x) for x in c]),
    "counts as text": counts_only(lambda c: [str(x) for x in c]),
    "counts as JSON": counts_only(json.dumps),
    "counts as printed bytes": runs(
        lambda m: m | {"counts": repr(m["counts"].encode())} if isinstance(m["counts"], str) else m
    ),
    "the same annotation again": lambda c: c["annotations"].append(c["annotations"][5]),
    "the same image again": lambda c: c["images"].append(c["images"][1]),
    "the same category again": lambda c: c["categories"].append(c["categories"][1]),
    "an annotation of another image": lambda c: c["annotations"].append(
        c["annotations"][0] | {"id": 99, "image_id": 99}
    ),
    "annotations first": lambda c: c.update(images=c.pop("images"), categories=c.pop("categories")),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_what_has_one_reading_is_read(folder, right, case):
    content = original()
    READ[case](content)
    found = answers(write(folder, content))
    assert found[0] == right[0] and same(found[1], right[1])


def test_ids_as_text_everywhere(folder, right):
    """They stay text: results are to name what the json names."""
    content = original()
    for section, key in (("images", "id"), ("annotations", "image_id")):
        for entry in content[section]:
            entry[key] = f"photo {entry[key]}"
    every, masks = answers(write(folder, content))
    assert [(int(e[0].split()[1]), *e[1:]) for e in every] == right[0]
    assert [m.sum() for _, m in masks] == [m.sum() for _, m in right[1]]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings(folder, right, encoding):
    path = folder / "own.json"
    path.write_bytes(json.dumps(original()).encode(encoding))
    found = answers(str(path))
    assert found[0] == right[0] and same(found[1], right[1])


# ------------------------------------------------------------------------- what loses a few objects


def of_one(**changes):
    return lambda c: c["annotations"][4].update(changes)


LEFT_OUT = {
    "polygon with NaN": (of_one(segmentation=[[2, 3, float("nan"), 3, 9, 9]]), "coordinate 'NaN'"),
    "polygon far away": (of_one(segmentation=[[2, 3, 1e9, 3, 9, 9]]), "coordinate '1000000000.0'"),
    "polygon with null": (of_one(segmentation=[[2, 3, None, 3, 9, 9]]), "coordinate 'null'"),
    "half a point": (of_one(segmentation=[[2, 3, 8, 3, 9, 9, 1]]), "7 numbers"),
    "a word": (of_one(segmentation="polygon"), "is '\"polygon\"'"),
    "counts too few": (of_one(segmentation={"size": [32, 24], "counts": [9, 9]}), "add up to 18"),
    "counts not whole": (of_one(segmentation={"size": [32, 24], "counts": [9, 0.5]}), "'0.5'"),
    "counts negative": (of_one(segmentation={"size": [32, 24], "counts": [-9, 777]}), "below 0"),
    "size turned": (of_one(segmentation={"size": [24, 32], "counts": [0, 768]}), r"'\[24, 32\]'"),
    "string cut": (of_one(segmentation={"size": [32, 24], "counts": "Zd0"}), "add up to|damaged"),
    "crowd a word": (of_one(iscrowd="perhaps"), "iscrowd '\"perhaps\"' is neither 0 nor 1"),
    "category a list": (of_one(category_id=[3]), r"category_id '\[3\]' is not a whole number"),
    "image a null": (of_one(image_id=None), "image_id 'null' is not an id"),
    "no box, no mask": (of_one(bbox=[1, 2, 3], segmentation=[]), r"bbox '\[1, 2, 3\]' is not"),
    "negative, no mask": (of_one(bbox=[1, 2, -3, 4], segmentation=[]), "negative width or height"),
    "flat, no mask": (of_one(bbox=[1, 2, 0, 4], segmentation=None), "have no area"),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_loses_a_few_is_left_out_counted_and_named(folder, right, caplog, case):
    change, message = LEFT_OUT[case]
    content = original()
    change(content)
    path = write(folder, content)
    every, masks = answers(path)
    lost = content["annotations"][4]
    expected = [e for e in right[0] if list(e[2:6]) != original()["annotations"][4]["bbox"]]
    assert every == expected and len(every) == 11 and len(masks) == 10
    (note,) = map(str, read_annotations(path).notes)
    assert note.startswith("annotations ") and "left out" in note and ": 1, such as " in note
    assert note.endswith(str(lost["id"])) or note.endswith(f"'{lost['id']}'")
    assert re.search(message, note), note
    assert caplog.text.count(note) == 1, "said once, whoever reads it"


# -------------------------------------------------------------------------- what changes the task


def every_mask(value):
    return lambda c: [a.update(segmentation=value) for a in c["annotations"]]


REFUSED = {
    "no masks left": (every_mask([[1, 1, 2, 2]]), 'none with an area.*"segmentation": \\[\\]'),
    "all masks damaged": (
        every_mask({"size": [9, 9], "counts": [81]}),
        r"12 of 12 annotations.*'\[9, 9\]'",
    ),
    "unlisted category": (
        of_one(category_id=99),
        "does not list: '99' of annotation '5'; it lists '3', '7'",
    ),
    "null category": (of_one(category_id=None), "does not list: 'null' of annotation '5'"),
    "category id of two": (
        lambda c: c["categories"][0].update(id=3),
        "category id '3' twice, as '\"dog\"' and as",
    ),
    "category id a word": (
        lambda c: c["categories"][0].update(id="dog"),
        "category '\"dog\"' whose id '\"dog\"'",
    ),
    "category without name": (
        lambda c: c["categories"][0].update(name=None),
        "category '7' whose name 'null'",
    ),
    "image id of two": (
        lambda c: c["images"][1].update(id=1),
        "image id '1' twice: 1.png.*and 2.png",
    ),
    "image id a boolean": (
        lambda c: c["images"][1].update(id=True),
        "image 'true' whose id 'true' is not an id",
    ),
    "image without name": (
        lambda c: c["images"][1].update(file_name=None),
        "image '2' whose file_name 'null'",
    ),
    "image size lost": (
        lambda c: c["images"][1].update(height=None),
        "1 of 3 images.*height 'null'",
    ),
    "image size negative": (lambda c: c["images"][1].update(width=-5), "width '-5' is not a size"),
    "image size hostile": (lambda c: c["images"][1].update(height=10**6, width=10**6), "too large"),
    "no images": (lambda c: c.update(images=[]), "needs a list 'images'"),
    "images an object": (lambda c: c.update(images={}), "'images' is '{}', not a list"),
    "annotations a text": (
        lambda c: c.update(annotations="x"),
        "'annotations' is '\"x\"', not a list",
    ),
    "a number for an entry": (lambda c: c["annotations"].append(3), "'annotations' holds '3'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_changes_the_task_is_refused(folder, case):
    change, message = REFUSED[case]
    content = original()
    change(content)
    path = write(folder, content)
    found = answers(path)
    assert isinstance(found, str) and found.startswith(f"{path} ")
    assert re.search(message, found), found


# ------------------------------------------------------------------------------------- any value


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["1", "7.0", " 3 ", "", "NaN", "[]", "[1, 2]", "{", "b'x'", "1e999", "-1"]),
    st.lists(
        st.one_of(st.none(), st.floats(), st.integers(-40, 40), st.text(max_size=2)), max_size=9
    ),
    st.lists(st.lists(st.floats(-40, 80), max_size=9), max_size=3),
    st.fixed_dictionaries(
        {"size": st.lists(st.integers(-1, 40), max_size=3)},
        optional={"counts": st.text(max_size=6) | st.lists(st.integers(-1, 800), max_size=5)},
    ),
)


@st.composite
def mutations(draw):
    """A section, an entry, a field and another value; or a key of run lengths, or one of a list's numbers."""
    section = draw(st.sampled_from(["annotations"] * 6 + ["images", "categories"]))
    entry = draw(st.integers(0, len(original()[section]) - 1))
    fields = {
        "annotations": ["segmentation"] * 4
        + ["bbox", "area", "iscrowd", "category_id", "image_id", "id"],
        "images": ["id", "height", "width"],
        "categories": ["id", "name"],
    }[section]
    return section, entry, draw(st.sampled_from(fields)), draw(VALUES), draw(st.integers(0, 10**6))


def mutated(section, entry, field, value, place):
    content = original()
    target, key = content[section][entry], field
    if place % 2 and isinstance(target[field], dict | list):  # somewhere within it
        target = target[field]
        if isinstance(target, list) and isinstance(target[0], list):
            target = target[0]
        keys = list(target) if isinstance(target, dict) else range(len(target))
        key = keys[place // 2 % len(keys)]
        if isinstance(target, dict) and isinstance(target[key], list) and place % 3:
            target = target[key]
            key = place // 6 % len(target)
    target[key] = value
    return content


def check(folder, right, mutation):
    section, _, field, value, _ = mutation
    content = mutated(*mutation)
    found = answers(write(folder, content))
    if isinstance(found, str):
        return
    kept = set(right[0])
    new = [e for e in found[0] if e not in kept]
    # One field of one annotation touches one object; of an image or a category those that refer to it.
    assert len(found[0]) <= 12 and (
        section != "annotations" or (len(new) <= 1 and len(found[0]) >= 11)
    )
    for image, mask in found[1]:
        height, width = SIZES[1] if image not in SIZES else SIZES[image]
        assert section == "images" or mask.shape == (height, width)


LIMITS = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


@settings(max_examples=600, **LIMITS)
@given(mutations())
def test_any_value_of_any_field(folder, right, mutation):
    check(folder, right, mutation)


@settings(max_examples=150, **LIMITS)
@given(mutations())
def test_any_value_in_every_entry(folder, mutation):
    section, _, field, value, _ = mutation
    content = original()
    for entry in content[section]:
        entry[field] = value
    answers(write(folder, content))


@pytest.mark.slow
@settings(max_examples=20_000, **LIMITS)
@given(mutations())
def test_any_value_of_any_field_at_length(folder, right, mutation):
    check(folder, right, mutation)


@settings(max_examples=150, **LIMITS)
@given(st.integers(0, 10**6), st.binary(min_size=0, max_size=3))
def test_any_damage_of_the_file(folder, right, place, bytes_):
    raw = json.dumps(original()).encode()
    place %= len(raw)
    path = folder / "own.json"
    path.write_bytes(raw[:place] + bytes_ + raw[place + len(bytes_) :])
    answers(str(path))


HOSTILE = {
    "deep": '{"images": ' + "[" * 100_000,
    "digits": '{"images": [{"id": 1, "file_name": "a", "height": ' + "9" * 5000 + ', "width": 4}]}',
    "zigzag": json.dumps(
        original() | {"annotations": [coco_rectangle(1, 1, 3, [1, 1, 5, 5])
        | {"segmentation": [[x % 2 * 30, x % 24] for x in range(20_000)]}]}
    ),
    "many runs": json.dumps(
        original() | {"annotations": [coco_rectangle(1, 1, 3, [1, 1, 5, 5])
        | {"segmentation": {"size": [24, 32], "counts": [10**15] * 100_000}}]}
    ),
}  # fmt: skip


def test_hostile_files_end_in_an_error_within_bounds(folder):
    """In a process that may take 1 GiB more than its libraries have."""
    code = (
        "import resource, sys, detectron2, pycocotools.mask\n"
        "from rmae_d2.annotations.coco import read_annotations\n"
        "from rmae_d2.errors import AnnotationError\n"
        "limit = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + (1 << 30)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "for path in sys.argv[1:]:\n"
        "    try: read_annotations(path)\n"
        "    except AnnotationError as error: print(error)\n"
    )
    paths = []
    for name, text in HOSTILE.items():
        paths.append(str(folder / f"{name}.json"))
        (folder / f"{name}.json").write_text(text)
    run = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=HUNG
    )
    assert run.returncode == 0, run.stderr
    messages = run.stdout.splitlines()
    for path, message, words in zip(
        paths,
        messages,
        ("nested too deeply", "thousands of digits", "outline", "add up|above"),
        strict=True,
    ):
        assert path in message and re.search(words, message), message
