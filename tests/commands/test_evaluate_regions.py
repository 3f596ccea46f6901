"""Region sources compared from the command line, on photos with masks."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.helpers import write_coco

COMMAND = "evaluate-regions"
SLIC = "slic segments=[4]"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    boxes = [(i, *box) for i in (0, 1) for box in ((18, 14, 63, 62), (58, 43, 84, 64))]
    return write_coco(tmp_path_factory.mktemp("photos"), boxes)


def test_a_table_and_its_json(cli, photos, tmp_path):
    """The instances themselves as regions overlap fully; photo c has none and does not count."""
    labels = photos / "labels.json"
    sources = [f"instances json_file={labels}", SLIC]
    words = [word for source in sources for word in ("--source", source)]
    out = tmp_path / "new/quality"
    code, text, error = cli(COMMAND, "--json", labels, *words, "--output", out)
    assert code == 0, error
    found = json.loads((out / "regions.json").read_text())["sources"]
    assert list(found) == sources
    own = found[sources[0]]
    assert (own["images"], own["instances"], own["regions"]) == (2, 4, 2)
    assert own["best_iou"] == own["recall_50"] == own["ar@10"] == 1
    assert 0 < found[SLIC]["best_iou"] < 0.8 and found[SLIC]["seconds"] > 0
    row = next(line for line in text.splitlines() if line.startswith("| instances"))
    cells = [cell.strip() for cell in row.split("|")[2:-2]]
    assert cells == ["2.0"] + ["100.0"] * 5


def test_max_images(cli, photos, tmp_path):
    words = ("--json", photos / "labels.json", "--max-images", 1, "--output", tmp_path)
    words += ("--pictures", 2)
    assert cli(COMMAND, *words, "--source", SLIC)[0] == 0
    found = json.loads((tmp_path / "regions.json").read_text())["sources"][SLIC]
    assert (found["images"], found["instances"]) == (1, 2)
    # One row of 120 x 160 pixels, enlarged to 240 wide: the instances, and SLIC's four segments.
    picture = np.asarray(Image.open(tmp_path / "regions.png"))
    assert picture.shape[1] == 2 * 240 + 3 * 6 and 180 <= picture.shape[0] < 260
    instances, slic = picture[-180:, 6:246], picture[-180:, 252:492]
    white = [(part == 255).all(axis=2).mean() for part in (instances, slic)]
    assert 0.005 < white[0] < 0.1 and 0.005 < white[1] < 0.1


def test_one_line_for_what_is_wrong(cli, photos):
    data = ("--json", photos / "labels.json")
    for words, code, message in (
        ((*data, "--source", "fhh"), 1, "no region source 'fhh'"),
        ((*data, "--source", "slic segment=3"), 1, "segment"),
        ((*data, "--source", "slic segments=[0]"), 1, "segments=[0]"),
        (("--source", "fh"), 2, "give --dataset or --json"),
        (data, 2, "--source"),
        (("--json", photos / "absent.json", "--source", "fh"), 1, "absent.json"),
    ):
        found, _, error = cli(COMMAND, *words)
        assert found == code and message in error, error


def test_proposals(cli, photos, tmp_path):
    source = "proposals weights=rmae-d2://rmae_scenes device=cpu points_per_side=4"
    words = ("--json", photos / "labels.json", "--output", tmp_path)
    assert cli(COMMAND, *words, "--source", source)[0] == 0
    found = json.loads((tmp_path / "regions.json").read_text())["sources"][source]
    assert 1 < found["regions"] <= 16 and 0 < found["best_iou"] < 1
