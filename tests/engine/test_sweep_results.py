"""What the runs of a sweep measured, from their run.jsonl files: the table, the numbers, the picture."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from rmae_d2.engine.sweep import Run, Stage
from rmae_d2.engine.sweep_results import (
    choose_metric,
    mean_and_deviation,
    measure,
    results_table,
    write_results,
)
from rmae_d2.errors import UserError
from rmae_d2.events import EventWriter

ABOUT = {"command": "rmae-d2 sweep ..."}


def run(folder, values, seed=0, losses=(), ended="finished", **measured):
    """A run and its run.jsonl: total losses of its steps, results by name with "_" for "/"."""
    stage = Stage("x.py", (), folder / f"{'-'.join(values.values())}-{seed}")
    if ended == "absent":
        return Run(values, seed, (stage,))
    stage.folder.mkdir(parents=True)
    writer = EventWriter(stage.folder)
    writer.write("start", arguments={"opts": [], "eval_only": False})
    for i, loss in enumerate(losses):
        writer.write("step", iteration=i, values={"total_loss": loss})
    if measured:
        names = {name.replace("_", "/", 1): value for name, value in measured.items()}
        writer.write("evaluation", iteration=len(losses), results=names)
    if ended == "failed":
        writer.write("error", type="ValueError", text="the disk | is full")
    if ended:
        writer.write("end", outcome=ended)
    return Run(values, seed, (stage,))


@pytest.fixture
def ratios(tmp_path):
    """Two seeds at 0.5, of 0.75 one has failed, of 0.9 none has run."""
    return [
        measure(run(tmp_path, {"model.ratio": "0.5"}, 0, [9, 3.0], bbox_AP=50.0, segm_AP=1.0)),
        measure(run(tmp_path, {"model.ratio": "0.5"}, 1, [9, 4.0], bbox_AP=50.5, segm_AP=1.0)),
        measure(run(tmp_path, {"model.ratio": "0.75"}, 0, [9, 5.0], bbox_AP=52.25, segm_AP=1.0)),
        measure(run(tmp_path, {"model.ratio": "0.75"}, 1, [9, 5.0], "failed")),
        measure(run(tmp_path, {"model.ratio": "0.9"}, 0, ended="absent")),
        measure(run(tmp_path, {"model.ratio": "0.9"}, 1, ended=""), "killed by SIGKILL"),
    ]


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines()]


def test_a_row_a_point(ratios):
    header, _, *rows = cells(results_table(ratios, "bbox/AP"))
    assert header == ["ratio", "bbox/AP", "n", "missing"]
    assert rows == [
        ["0.5", "50.25 ± 0.35", "2", ""],
        ["0.75", "52.25", "1", r"seed 1: failed: ValueError: the disk \| is full"],
        ["0.9", "-", "0", "seed 0: not run; seed 1: killed by SIGKILL"],
    ]
    whole = results_table(ratios[:3], "total_loss")
    assert cells(whole)[0] == ["ratio", "total_loss", "n"]
    assert cells(whole)[2:] == [["0.5", "3.50 ± 0.71", "2"], ["0.75", "5", "1"]]


def test_means_and_deviations_of_samples():
    assert mean_and_deviation([1.0, 2.0, 6.0]) == pytest.approx((3.0, math.sqrt(7)))
    assert mean_and_deviation([4.0])[0] == 4 and math.isnan(mean_and_deviation([4.0])[1])
    assert math.isnan(mean_and_deviation([])[0])


@pytest.mark.parametrize(
    ("measured", "name"),
    [
        ({"segm_AP": 1, "bbox_AP": 2}, "bbox/AP"),
        ({"mine_AP-cat": 1, "mine_score": 2}, "mine/score"),
        (
            {"reconstruction_loss/pixel": 1, "reconstruction_region/iou": 1},
            "reconstruction/loss/pixel",
        ),
        ({}, "total_loss"),
    ],
)
def test_the_main_metric(tmp_path, measured, name):
    one = measure(run(tmp_path, {"k": "1"}, 0, [1.0], **measured))
    assert choose_metric([one], None) == name


def test_an_unknown_metric_lists_what_there_is(ratios):
    assert choose_metric(ratios, "segm/AP") == "segm/AP"
    with pytest.raises(
        UserError, match="bbox/APs: no run has it, but total_loss, bbox/AP, segm/AP"
    ):
        choose_metric(ratios, "bbox/APs")


def test_everything_is_in_the_json(ratios, tmp_path):
    files = write_results(ratios, "bbox/AP", tmp_path, ABOUT)
    assert [file.name for file in files] == ["sweep.md", "sweep.json", "sweep.png"]
    assert (tmp_path / "sweep.md").read_text().startswith(results_table(ratios, "bbox/AP"))
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert content["metric"] == "bbox/AP" and content["code"].startswith("rmae_d2 ")
    half, three, none = content["points"]
    assert half["values"] == {"model.ratio": "0.5"}
    assert (half["mean"], half["n"]) == (50.25, 2)
    assert half["deviation"] == pytest.approx(math.sqrt(0.125))
    assert half["runs"][1]["last"] == {"total_loss": 4.0, "bbox/AP": 50.5, "segm/AP": 1.0}
    assert three["deviation"] == "NaN" and three["runs"][1]["cause"].startswith("failed: Value")
    assert none["mean"] == "NaN" and none["n"] == 0


def colours(path):
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    found = {"".join(f"{value:02x}" for value in pixel) for pixel in np.unique(pixels, axis=0)}
    return found & {"1f77b4", "ff7f0e", "2ca02c"}


@pytest.mark.parametrize(
    ("grid", "lines"),
    [
        ([{"a": "1"}, {"a": "2"}, {"a": "32"}], 1),
        ([{"a": x, "b": y} for x in ("0", "1e-1") for y in ("p", "q")], 2),
        ([{"b": y, "a": x} for x in ("1", "2", "4") for y in ("0", "1")], 2),
        ([{"a": "length"}, {"a": "[1,2]"}], 1),
        ([{"a": x, "b": y} for x in ("${x}$", "$") for y in ("$${y}", "$a_{$")], 2),
        ([{"a": x, "b": y} for x in ("p", "q") for y in ("r", "s", "t")], 3),
    ],
    ids=["numbers", "a number and words", "two numbers", "words", "no formulas", "words twice"],
)
@pytest.mark.filterwarnings("error")
def test_a_line_for_each_choice_of_the_other_keys(tmp_path, grid, lines):
    measured = [
        measure(run(tmp_path, point, seed, [1.0 + seed + i]))
        for i, point in enumerate(grid)
        for seed in (0, 1)
    ]
    *_, picture = write_results(measured, "total_loss", tmp_path, ABOUT)
    assert len(colours(picture)) == lines


def test_no_picture_of_nothing(tmp_path, ratios):
    one = measure(run(tmp_path, {}, 0, [1.0]))
    assert len(write_results([one], "total_loss", tmp_path, ABOUT)) == 2
    assert len(write_results(ratios[4:], "total_loss", tmp_path, ABOUT)) == 2
