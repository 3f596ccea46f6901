"""The command, and the page that it writes."""

import base64
import io
import json
import re

import numpy as np
from PIL import Image

from rmae_d2.annotations.coco import forget_annotations
from tests.helpers import coco_rectangle


def test_exit_codes_and_a_page_with_labels_drawn(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    for k in range(3):
        Image.new("RGB", (100, 80), (90 + k, 90, 90)).save(tmp_path / f"set/{k}.png")
    content = {
        "images": [
            {"id": k, "file_name": f"{k}.png", "height": 80, "width": 100} for k in range(3)
        ],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [coco_rectangle(k, k, 1, [20, 20, 40, 40]) for k in range(3)],
    }
    (tmp_path / "set/labels.json").write_text(json.dumps(content))
    code, out, _ = cli("inspect", "set", "--rows", "2")
    assert code == 0 and "nothing is wrong" in out and out.endswith("inspection.html\n")
    page = (tmp_path / "inspection.html").read_text()
    uris = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    assert len(uris) == 2
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(uris[0]))).convert("RGB")).astype(int)
    h, w = drawn.shape[:2]
    assert (h, w) == (384, 480)
    inside, outside = drawn[h // 2, int(0.4 * w)], drawn[int(0.9 * h), int(0.9 * w)]
    assert np.abs(outside - 90).max() <= 3 and np.ptp(inside) > 40
    assert "0.png, 100x80, objects: 1" in page

    content["annotations"][0]["bbox"] = [110, 20, 10, 10]
    content["annotations"][0]["segmentation"] = []
    (tmp_path / "set/labels.json").write_text(json.dumps(content))
    forget_annotations()
    code, out, _ = cli("inspect", "set", "--output", "new/page.html")
    assert code == 1 and "- boxes lie outside their image: 1, such as annotation 0 of 0.png" in out
    page = (tmp_path / "new/page.html").read_text()
    assert "something is wrong" in page and "boxes lie outside their image: 1</b>" in page


def test_mistakes(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    code, out, error = cli("inspect", ".", "7")
    assert (code, out) == (1, "") and "image ids are of a region store" in error
    code, out, error = cli("inspect", "absent")
    assert (code, out) == (1, "") and "there is no" in error
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_names_are_text_not_html(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "set/<b>a&b.png")
    assert cli("inspect", "set")[0] == 0
    page = (tmp_path / "inspection.html").read_text()
    assert "&lt;b&gt;a&amp;b.png, 8x8" in page and "<b>a" not in page
