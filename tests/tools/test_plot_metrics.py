"""The command line of tools/plot_metrics.py."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

TOOL = Path(__file__).resolve().parents[2] / "tools/plot_metrics.py"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the script in this process, in a folder with two runs: its exit status or message."""
    for name, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        record = {"iteration": 9, "bbox/AP": value, "segm/AP": value}
        (tmp_path / name / "metrics.json").write_text(json.dumps(record) + "\n")

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(TOOL), *arguments])
        try:
            runpy.run_path(str(TOOL), run_name="__main__")
        except SystemExit as stopped:
            return stopped.code
        return 0

    return run


def test_draws_the_runs(run, tmp_path, capsys):
    assert run("a", "b", "--labels", "one", "two", "--output", "new/ap.png") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "new/ap.png")
    with Image.open(tmp_path / "new/ap.png") as two:
        width = two.width
    assert run("a", "--metric", "segm/AP") == 0
    with Image.open(tmp_path / "metrics.png") as one:
        assert width == 2 * one.width


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["a", "c"], "c: no such folder"),
        (["a", "b", "--labels", "one"], "1 labels for 2 runs"),
        (["a", "--metric", "segm/APm"], "did you mean segm/AP"),
    ],
)
def test_says_what_is_wrong(run, arguments, message):
    assert message in run(*arguments)
