"""README and site: no broken link, no number that is not the study's."""

import re
import subprocess
import sys
from importlib import import_module

import pytest

from tests.helpers import ROOT

README = (ROOT / "README.md").read_text()


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= 180
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#([^)]+))?\)", README)
    assert len(links) > 20
    for path, anchor in links:
        page = ROOT / path
        assert page.exists(), path
        if anchor:
            titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}


def rows(text, first):
    """Cells by header of a Markdown table, of rows that begin with a header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    found = []
    header = None
    for row in cells:
        if row[0] == first:
            header = row
        elif header is not None and len(row) == len(header) and not set(row[0]) <= set(":-"):
            found.append(dict(zip(header, row, strict=True)))
    return found


def test_the_readme_has_the_studys_numbers():
    study = [row for row in rows((ROOT / "docs/study.md").read_text(), "method") if "views" in row]
    shown = rows(README, "method")
    assert len(shown) >= 2
    for row in shown:
        assert any(row.items() <= other.items() for other in study), row


def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("mkdocs", reason="needs rmae_d2[docs]")
    line = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    commands = (tmp_path / "reference/commands/index.html").read_text()
    assert "--statistics" in commands and "rmae-d2 inspect" in commands
    messages = (tmp_path / "reference/messages/index.html").read_text()
    assert messages.count("<li>") > 500
    assert "already holds a run: add --resume (before the overrides)" in messages
    assert "forward_tensors" in (tmp_path / "reference/python/index.html").read_text()


def test_the_method_names_modules_that_exist():
    """`modeling/rmae.py: RMAE.forward` is a function of that file."""
    page = (ROOT / "docs/method.md").read_text()
    named = re.findall(r"`([\w/]+)\.py: ([\w.]+)`", page)
    assert len(named) > 25
    for path, name in named:
        found = import_module(f"rmae_d2.{path.replace('/', '.')}")
        for part in name.split("."):
            found = getattr(found, part)
        assert found.__module__ == f"rmae_d2.{path.replace('/', '.')}"


def test_troubleshooting_names_messages_that_exist():
    page = (ROOT / "docs/troubleshooting.md").read_text()
    code = "\n".join(path.read_text() for path in (ROOT / "rmae_d2").rglob("*.py"))
    said = re.sub(r'"\s*\n?\s*f?"', "", code)  # of a message in several literals one
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert len(cells) > 10
    others = {"CUDA out of memory"}  # torch's own
    for text in (text for cell in cells for text in re.findall(r"`([^`]+)`", cell)):
        parts = [part.strip(" '[].") for part in re.split(r"\.\.\.|\b[NM]\b|\(H, W\)", text)]
        assert text in others or all(part in said for part in parts if part), text
