"""What is missing here, and its remedies."""

import subprocess
import sys

from rmae_d2 import __version__
from tests.helpers import ROOT


def test_this_environment(cli):
    code, out, _ = cli("doctor")
    assert out.startswith(f"rmae_d2 {__version__}, Python ")
    assert "ok       Detectron2 " in out and "ok       devices: " in out and "simplejpeg" in out
    assert code == int("missing" in "".join(x for x in out.splitlines() if "rmae_d2[" not in x))


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
        ("missing  simplejpeg", "pip install 'rmae_d2[fast]'"),
        ("missing  torch: ", "pip install torch torchvision"),
    ):
        (number,) = (i for i, line in enumerate(lines) if line.startswith(missing))
        assert remedy in lines[number + 1]
