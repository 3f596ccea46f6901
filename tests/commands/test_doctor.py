"""What is missing here, and its remedies."""

import re
import subprocess
import sys

from rmae_d2 import __version__
from rmae_d2.commands.doctor import EXTRAS
from tests.helpers import ROOT, save_run


def test_this_environment(cli):
    code, out, _ = cli("doctor")
    assert out.startswith(f"rmae_d2 {__version__}, Python ")
    assert "ok       Detectron2 " in out and "ok       devices: " in out and "simplejpeg" in out
    optional = [f"  {name} " for name, *_ in EXTRAS] + ["rmae-d2://"]
    missing = [x for x in out.splitlines() if x.startswith("missing")]
    assert code == any(not any(name in x for name in optional) for x in missing)


def test_the_packages_weights_work(cli, shipped):
    line = re.search(
        r"^ok +rmae-d2://rmae_scenes predicts the 75% hidden .*$", cli("doctor")[1], re.M
    )
    assert line, "they do not"
    assert float(re.search(r"pixel loss ([0-9.]+), ", line[0])[1]) < 0.9


def test_weights_that_do_not_work(cli, tmp_path, monkeypatch):
    """Some that are absent, and some that learned nothing: told, but nothing that training needs."""
    monkeypatch.setattr("rmae_d2.shipped.FOLDER", tmp_path)
    code, out, _ = cli("doctor")
    assert "missing  rmae-d2://rmae_scenes: no weights of that name come with rmae_d2" in out
    save_run(tmp_path, "model.backbone.net.img_size=64")
    (tmp_path / "rmae_scenes").mkdir()
    words = ("--to", "rmae", "--half", "--output", tmp_path / "rmae_scenes/model.safetensors")
    assert cli("convert", "--input", tmp_path / "model_final.pth", *words)[0] == 0
    again, out, _ = cli("doctor")
    loss = re.search(r"missing +rmae-d2://rmae_scenes predicts .*: pixel loss ([0-9.]+)", out)
    assert float(loss[1]) >= 1 and "remedy: reinstall rmae_d2" in out
    assert code == again


def test_without_anything(tmp_path):
    """No site-packages: every missing thing has a remedy, and nothing fails."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from rmae_d2 import commands\nprint(commands.run(['doctor']))"
    )
    command = [sys.executable, "-S", "-E", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "1"
    for missing, remedy in (
        ("missing  Detectron2", "rmae-d2 install-detectron2"),
        ("missing  simplejpeg", f"pip install -e '{ROOT}[fast]'"),
        ("missing  torch: ", "pip install torch torchvision"),
        ("missing  rmae-d2://rmae_scenes: ", ""),
    ):
        (number,) = (i for i, line in enumerate(lines) if line.startswith(missing))
        assert remedy in lines[number + 1]
