"""Reading metrics.json as runs leave it, and drawing it."""

import json

import pytest
from PIL import Image

from rmae_d2.visualization import draw_loss_curve
from rmae_d2.visualization.curves import read_metrics


def write(path, records, tail=""):
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
    return path


def test_later_records_count_and_cut_lines_do_not(tmp_path):
    records = [{"iteration": i, "loss_pixel": 1.0 / (i + 1), "lr": 0.1} for i in range(4)]
    resumed = [{"iteration": i, "loss_pixel": 5.0, "lr": 0.1} for i in (2, 3)]
    path = write(tmp_path / "metrics.json", records + resumed, tail='{"iteration": 4, "loss_pi')
    found = {record["iteration"]: record["loss_pixel"] for record in read_metrics(path)}
    assert found == {0: 1.0, 1: 0.5, 2: 5.0, 3: 5.0}


@pytest.mark.parametrize(
    "records",
    [
        [{"iteration": i, "loss_pixel": 1.0, "loss_region": 0.5, "lr": 0.1} for i in range(5)],
        [{"iteration": 0, "loss_a": float("nan")}, {"iteration": 1, "loss_a": 2.0}],
        [{"iteration": 9, "loss_a": 1.0, "lr": 0.0}, {"iteration": 10, "bbox/AP": 3.0}],
        [{"iteration": 10, "bbox/AP": 3.0}],
        [],
    ],
    ids=["usual", "nan", "one point", "no loss", "empty"],
)
@pytest.mark.filterwarnings("error")
def test_every_file_gives_a_picture(tmp_path, records):
    path = write(tmp_path / "metrics.json", records)
    made = draw_loss_curve(path, tmp_path / "curve.png")
    with Image.open(made) as picture:
        assert picture.size == (840, 480)
