"""What a log says of the code that wrote it."""

import shutil
import subprocess
import sys
from pathlib import Path

import rmae_d2
from rmae_d2.engine.provenance import describe_code

ROOT = Path(rmae_d2.__file__).resolve().parents[1]


def copy_package(root):
    """The two files that it needs."""
    (root / "rmae_d2/engine").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "rmae_d2/engine/provenance.py", root / "rmae_d2/engine")
    (root / "rmae_d2/__init__.py").write_text('__version__ = "1.2.3"\n')
    (root / "rmae_d2/engine/__init__.py").write_text("")


def described_in(root):
    """By the copy, in a process of its own."""
    code = "from rmae_d2.engine.provenance import describe_code; print(describe_code())"
    command = [
        sys.executable,
        "-P",
        "-B",
        "-c",
        f"import sys; sys.path.insert(0, {str(root)!r}); {code}",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_version_and_commit(tmp_path):
    copy_package(tmp_path)
    assert described_in(tmp_path) == "rmae_d2 1.2.3"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert described_in(tmp_path) == f"rmae_d2 1.2.3, commit {head.stdout[:12]}"
    with (tmp_path / "rmae_d2/__init__.py").open("a") as file:
        file.write("\n")
    assert described_in(tmp_path) == f"rmae_d2 1.2.3, commit {head.stdout[:12]}-dirty"


def test_this_one():
    assert describe_code().startswith(f"rmae_d2 {rmae_d2.__version__}")
