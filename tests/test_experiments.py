"""docs/experiments.md is what its script makes, and leaves out no table or figure and no config."""

import importlib.util
import re
from pathlib import Path

import pytest

from rmae_d2.config import config_root

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("experiments", ROOT / "docs/experiments.py")
experiments = importlib.util.module_from_spec(spec)
spec.loader.exec_module(experiments)

ROWS = [*experiments.OTHERS, *experiments.config_rows()]
CONFIGS = [
    path
    for path in sorted(config_root().glob("*/*.py"))
    if path.parts[-2] not in ("common", "demo", "study")
]


def test_the_page_is_of_these_headers():
    found = experiments.PAGE.read_text(encoding="utf-8")
    assert found == experiments.page(), "remedy: python docs/experiments.py"


def test_nothing_that_the_papers_show_is_missing():
    listed = {f"{paper} {item}" for paper, items in experiments.ITEMS.items() for item in items}
    assert {row.item for row in ROWS} == listed


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: "/".join(path.parts[-2:]))
def test_every_config_says_what_it_stands_for(path):
    fields = experiments.header(path)
    assert fields["Published"].strip() and fields["Measured"].strip()
    for line in experiments.rows_of(fields["Published"]):
        assert line.count(" | ") == 2, line


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.item}: {row.what}")
def test_what_a_row_names_is_there(row):
    from rmae_d2.commands import COMMANDS
    from rmae_d2.config import apply_overrides, get_config

    names = re.findall(r"`([^`]+)`", row.where)
    assert names or "docs/" in row.where
    for name in names:
        first, *others = name.split()
        if first == "rmae-d2":
            command = " ".join(word for word in others[:2] if not word.startswith("-"))
            assert any(known in (command, others[0]) for known in COMMANDS), name
        elif first.startswith("rmae_d2/"):
            assert (ROOT / first).is_file(), name
        else:
            apply_overrides(get_config(first), others)
    for page in re.findall(r"docs/[\w.]+\w", f"{row.where} {row.here}"):
        assert (ROOT / page).is_file(), page


def test_a_row_that_no_item_has_would_be_seen():
    """Of a header's text: rows with the lines that go on with them, prose before them left out."""
    text = "in prose\n  R-MAE table 1b | RAE\n    | 47.2 box AP (second-hand)\n  MAE table 3 | B | 83.6"
    assert experiments.rows_of(text) == [
        "R-MAE table 1b | RAE | 47.2 box AP (second-hand)",
        "MAE table 3 | B | 83.6",
    ]
    assert experiments.first_sentence("mIoU 14.6 of one\n  run. More.") == "mIoU 14.6 of one run"
