"""rmae-d2 benchmark gpu, rehearsed on a CPU: every row measures, what does not is skipped with a reason."""

import json
from argparse import Namespace
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
from PIL import Image

from rmae_d2.commands.benchmarks import gpu, gpu_plan, gpu_rows
from rmae_d2.errors import UserError

ROWS = {row.name: row for row in gpu_plan.plan()}
PREDICTION, SAM = QUICK = [
    name for name in ROWS if "SAM" in name or name.startswith("UPerNet, ViT-B, prediction")
]


def wanted(folder, **changes):
    given = {"output": str(folder), "minutes": 60.0, "rows": None, "toy": True}
    return Namespace(**{**given, **changes})


def check(row, lines):
    """What each line has: a positive rate that is the seconds' own, and a ratio of the first's time."""
    images = row.toy.get("batch", 1)
    for line in lines:
        assert line["seconds"] > 0
        assert line["images_per_second"] == pytest.approx(images / line["seconds"])
        if "ratio" in line:
            assert line["ratio"] == pytest.approx(line["seconds"] / lines[0]["seconds"])


@pytest.mark.slow
def test_a_folder_goes_on_where_it_was_stopped(tmp_path, capsys):
    """Rows that it has are not measured again; json, Markdown and chart have all."""
    first, second = QUICK
    gpu.run(wanted(tmp_path, rows=[first]))
    before = json.loads((tmp_path / "gpu.json").read_text())
    check(ROWS[first], before["rows"][first]["lines"])
    capsys.readouterr()
    gpu.run(wanted(tmp_path, rows=QUICK))
    told = capsys.readouterr().out
    assert f"[1 of 2] {first}" not in told and f"[2 of 2] {second}" in told
    after = json.loads((tmp_path / "gpu.json").read_text())
    assert after["rows"][first] == before["rows"][first] and set(after["rows"]) == set(QUICK)
    page = (tmp_path / "gpu.md").read_text()
    assert page.startswith("REHEARSAL ON A CPU") and f"torch {version('torch')}" in page
    assert all(f"| {name} " in page for name in QUICK)
    assert Image.open(tmp_path / "gpu.png").width > 500


def test_time_that_is_up_leaves_rows_for_the_next_run(tmp_path, capsys):
    gpu.run(wanted(tmp_path, minutes=0.0))
    assert f"left for the next run: {len(ROWS)} of {len(ROWS)} rows" in capsys.readouterr().out
    assert json.loads((tmp_path / "gpu.json").read_text())["rows"] == {}


def test_what_cannot_be_measured_says_why(tmp_path):
    row = ROWS[SAM]
    unknown = {"vision_config": {"hidden_act": "none such"}}
    wrong = replace(row, toy={**row.toy, "config": unknown})
    assert gpu.measure(wrong, 300, toy=True)["skipped"].startswith("KeyError: ")
    assert gpu.measure(row, 0.5, toy=True) == {"skipped": "took more than 0 s"}
    rows = {"a": {"skipped": "does not fit into the memory"}, "b": {"lines": []}}
    page = gpu.page({"device": "X", "versions": {}, "when": "today", "rows": rows})
    assert "Not measured:\n\n- a: does not fit into the memory" in page


def test_memory_that_is_full_is_a_reason(monkeypatch, capsys):
    def full(**_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried")

    monkeypatch.setitem(gpu_rows.KINDS, "full", full)
    assert gpu_rows.main('{"kind": "full"}') == gpu_rows.SKIPPED
    assert capsys.readouterr().out == "does not fit into the memory\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="is there one")
def test_without_a_gpu(tmp_path):
    with pytest.raises(UserError, match="no GPU that torch can use; --toy rehearses"):
        gpu.run(wanted(tmp_path, toy=False))


def test_rows_ask_what_the_kit_is_for():
    """R-MAE beside MAE and a plain loop in one process, ours beside Detectron2's, compiled and not."""
    kinds = {row.kind for row in ROWS.values()}
    assert kinds == gpu_rows.KINDS.keys()
    steps = [row.options for row in ROWS.values() if row.kind == "pretrain"]
    assert all({"MAE", "R-MAE"} <= {*row["variants"]} for row in steps)
    for arch in ("base", "large"):
        own = [row for row in steps if row["arch"] == arch]
        assert {bool(row.get("compile")) for row in own} == {True, False}
        assert any("R-MAE, plain" in row["variants"] for row in own)
    assert {row["precision"] for row in steps} == {"fp32", "bf16"}
    assert sum(row.limit for row in ROWS.values()) < 30 * 60


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ROWS if n not in QUICK])
def test_every_row_is_rehearsed(name):
    found = gpu.measure(ROWS[name], 900, toy=True)
    assert "skipped" not in found, found
    check(ROWS[name], found["lines"])
    asked = ROWS[name].options.get("variants")
    assert not asked or [line["variant"] for line in found["lines"]] == asked
