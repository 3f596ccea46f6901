"""One picture of several runs."""

import json

import pytest
from PIL import Image


@pytest.fixture
def run(tmp_path, monkeypatch, cli):
    """The command in a folder with two runs."""
    for name, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        record = {"iteration": 9, "bbox/AP": value, "segm/AP": value}
        (tmp_path / name / "metrics.json").write_text(json.dumps(record) + "\n")
    monkeypatch.chdir(tmp_path)
    return lambda *words: cli("visualize", "metrics", *words)


def test_draws_the_runs(run, tmp_path):
    done = run("a", "b", "--labels", "one", "two", "--output", "new/ap.png")
    assert done == (0, f"drawn: {tmp_path / 'new/ap.png'}\n", "")
    with Image.open(tmp_path / "new/ap.png") as two:
        width = two.width
    assert run("a", "--metric", "segm/AP")[0] == 0
    with Image.open(tmp_path / "a/metrics.png") as one:
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
    code, _, error = run(*arguments)
    assert code == 1 and message in error
