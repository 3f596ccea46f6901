"""What runs measured, drawn."""

import numpy as np
import pytest
from PIL import Image

from rmae_d2.events import EventWriter
from rmae_d2.visualization import draw_loss_curve, draw_metrics


def write(folder, records):
    """A run's folder in which these values were measured, results those with a "/" in their names."""
    folder.mkdir()
    writer = EventWriter(folder)
    for record in records:
        values = {k: v for k, v in record.items() if k != "iteration" and "/" not in k}
        found = {k: v for k, v in record.items() if "/" in k}
        writer.write("step", iteration=record["iteration"], values=values)
        writer.write("evaluation", iteration=record["iteration"], results=found)
    return folder


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
    path = write(tmp_path / "run", records)
    made = draw_loss_curve(path, tmp_path / "curve.png")
    with Image.open(made) as picture:
        assert picture.size == (840, 480)


def colours(path):
    """The colours of the cycle that a picture has, as hexadecimal numbers."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    return {"".join(f"{value:02x}" for value in pixel) for pixel in np.unique(pixels, axis=0)} & {
        "1f77b4",
        "ff7f0e",
        "2ca02c",
    }


def test_metrics_of_several_runs_in_one_picture(tmp_path):
    runs = []
    for i, label in enumerate(("scratch", "scratch", "pre-trained")):
        records = [{"iteration": 9, "bbox/AP": 3.0 + i, "segm/AP": i}, {"iteration": 10, "lr": 0.1}]
        records += [{"iteration": 19, "bbox/AP": 9.0, "segm/AP": float("nan")}]
        runs.append((label, write(tmp_path / f"{i}", records)))
    wide = draw_metrics(runs, ["bbox/AP", "segm/AP"], tmp_path / "wide.png")
    narrow = draw_metrics(runs[:1], ["bbox/AP"], tmp_path / "narrow.png")
    with Image.open(wide) as two, Image.open(narrow) as one:
        assert two.width == 2 * one.width and two.height == one.height
    # The two seeds of one label share its colour.
    assert colours(wide) == {"1f77b4", "ff7f0e"} and colours(narrow) == {"1f77b4"}


def test_a_metric_that_a_run_lacks_is_named(tmp_path):
    run = ("a", write(tmp_path / "a", [{"iteration": 1, "bbox/AP": 3.0}]))
    with pytest.raises(ValueError, match="a has no segm/AP: did you mean bbox/AP"):
        draw_metrics([run], ["segm/AP"], tmp_path / "x.png")
    run = ("a", write(tmp_path / "empty", []))
    with pytest.raises(ValueError, match="no values at all"):
        draw_metrics([run], ["segm/AP"], tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()
