"""What `rmae-d2 inspect labels.json` prints."""

import json

from rmae_d2.annotations.summary import summary
from tests.helpers import coco_rectangle


def test_counts_classes_and_what_is_left_out(tmp_path):
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 20, "width": 30} for n in (1, 2, 3)]
    objects = [coco_rectangle(n, n % 2 + 1, 4, [1, 2, 5, 6]) for n in range(12)]
    objects[0]["segmentation"] = {"size": [20, 30], "counts": [0, 20, 580]}
    objects[1] |= {"iscrowd": 1, "category_id": 9}
    objects[2]["segmentation"] = []
    objects[3]["bbox"] = None
    objects[4]["segmentation"] = [[1, 2, 3, 4, 5, float("nan")]]
    names = [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}]
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"images": images, "annotations": objects, "categories": names}))
    lines = summary(str(path)).splitlines()
    assert lines[0] == f"{path}: 3 images, 1 of them without annotations; 2 classes"
    assert lines[1] == (
        "11 objects, 1 of them crowds: 9 with polygons, 1 with run lengths, 1 with boxes alone"
    )
    assert lines[2].startswith(
        "annotations without a usable box, that of the mask is taken: 1, such as 3"
    )
    assert "that cannot be read, left out (annotation '4': segmentation has a polygon" in lines[3]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[-2:]]
    assert cells == [["cat", "4", "10", "2"], ["dog", "9", "1", "1"]]


def test_real_labels(shared_data):
    text = summary(str(shared_data / "coco/annotations/instances_val2017.json"))
    assert "24 images, 0 of them without annotations; 80 classes" in text
    assert "116 objects, 0 of them crowds: 116 with polygons" in text
    assert "nothing is left out or mended" in text and text.endswith("and 40 classes more")
