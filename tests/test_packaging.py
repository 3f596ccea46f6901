"""The wheel and the source distribution of rmae_d2, built for real from a copy of the source."""

import email.parser
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import metadata
from pathlib import Path

import pytest

import rmae_d2

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (
    "setup.py",
    "pyproject.toml",
    "constraints.txt",
    "LICENSE",
    "README.md",
    "rmae_d2",
    "configs",
)


_spec = importlib.util.spec_from_file_location("release_check", ROOT / "tools/release_check.py")
assert _spec is not None and _spec.loader is not None
release_check = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(release_check)


def python_files(root: Path, *folders: str) -> set[str]:
    """Paths of the .py files below ``root/folder``, relative to ``root``."""
    return {
        p.relative_to(root).as_posix() for folder in folders for p in (root / folder).rglob("*.py")
    }


def copy_source(target: Path) -> Path:
    """A copy of what is packaged, so that building leaves nothing in the working tree."""
    target.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copy2(source, target / name)
    return target


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel with pip, without the network."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    options = ["--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(source)]
    result = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (wheel,) = folder.glob("rmae_d2-*.whl")
    return wheel


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_source(tmp_path_factory.mktemp("source") / "rmae_d2")


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(source, tmp_path_factory.mktemp("wheel"))


def test_wheel_holds_every_module_and_every_config(source: Path, wheel: Path) -> None:
    """A subpackage without __init__.py would be left out by find_packages, silently."""
    expected = python_files(source, "rmae_d2")
    expected |= {f"rmae_d2/{name}" for name in python_files(source, "configs")}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name in names if name.endswith(".py")} == expected
    assert any(name.startswith("rmae_d2/configs/") for name in names)
    page = {f"rmae_d2/demo/page/{path.name}" for path in (source / "rmae_d2/demo/page").iterdir()}
    assert page and page == {name for name in names if "/demo/page/" in name}
    assert "rmae_d2/report/page.html" in names
    assert {"rmae_d2/py.typed", "rmae_d2/LICENSE"} < names
    weights = [path for path in (source / "rmae_d2/weights").rglob("*") if path.is_file()]
    assert {"config.yaml", "README.md"} <= {path.name for path in weights}
    packed = {name for name in names if name.startswith("rmae_d2/weights/")}
    assert packed == {path.relative_to(source).as_posix() for path in weights}


def test_wheel_holds_the_weights(shipped: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read("rmae_d2/weights/rmae_scenes/model.safetensors")
    assert packed == shipped.read_bytes()


def test_wheel_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.parser.Parser().parsestr(archive.read(name).decode())
    assert metadata["Version"] == rmae_d2.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    required = metadata.get_all("Requires-Dist", [])
    names = {re.split(r"[<>=;\s]", line)[0] for line in required if "extra ==" not in line}
    assert {"torch", "torchvision", "timm", "scikit-image", "faster-coco-eval"} <= names
    assert "detectron2" not in names  # not on PyPI: pip would fail on it
    readme = metadata.get_payload()
    assert "](https://" in readme and not re.search(r"\]\((?!https?:|#)", readme)


@pytest.mark.slow
def test_an_environment_with_the_wheel_runs_the_demo_in_an_empty_folder(
    wheel: Path, tmp_path: Path
) -> None:
    """The wheel comes before what is installed here, the checkout does not come at all."""
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    present = [path for path in sys.path if path.endswith("site-packages")]
    (site / "present.pth").write_text("\n".join(present) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(tmp_path / "venv/bin/python"), "install"]
    subprocess.run([*pip, "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DETECTRON2_DATASETS")}

    def command(*words: str) -> str:
        result = subprocess.run(
            [str(tmp_path / "venv/bin/rmae-d2"), *words],
            cwd=empty,
            env=env | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    assert command("--version") == f"rmae_d2 {rmae_d2.__version__}\n"
    for words in release_check.COMMANDS:
        command(*words)
    assert (empty / "output/demo/vitdet_tiny_scenes/predictions.png").is_file()
    assert len(list((empty / "predictions").glob("*.jpg"))) == 4
    assert list(empty.glob("reconstruction*/*.png"))


def test_config_deleted_since_the_last_build_is_not_packaged(tmp_path: Path) -> None:
    """setuptools keeps build/ between builds."""
    source = copy_source(tmp_path / "source")
    extra = source / "configs" / "of_the_test" / "gone.py"
    extra.parent.mkdir(parents=True)
    extra.write_text("x = 1\n")
    with zipfile.ZipFile(build_wheel(source, tmp_path / "first")) as archive:
        assert "rmae_d2/configs/of_the_test/gone.py" in archive.namelist()
    extra.unlink()
    with zipfile.ZipFile(build_wheel(source, tmp_path / "second")) as archive:
        assert "rmae_d2/configs/of_the_test/gone.py" not in archive.namelist()


def test_source_distribution_can_build_the_same_wheel(
    source: Path, wheel: Path, tmp_path: Path
) -> None:
    code = "import sys; from setuptools import build_meta as b; b.build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (archive_path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive_path) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    rebuilt = build_wheel(unpacked, tmp_path / "wheel")
    with zipfile.ZipFile(rebuilt) as ours, zipfile.ZipFile(wheel) as first:
        assert sorted(ours.namelist()) == sorted(first.namelist())


def test_setup_runs_without_torch_and_without_importing_the_package() -> None:
    code = (
        "import runpy, sys; sys.modules['torch'] = sys.modules['rmae_d2'] = None; "
        "sys.argv = ['setup.py', '--version']; runpy.run_path('setup.py')"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == rmae_d2.__version__


def test_source_tree_has_no_second_copy_of_the_configs() -> None:
    assert not (ROOT / "rmae_d2" / "configs").exists()


def test_constraints_name_only_direct_dependencies_with_a_reason() -> None:
    setup = (ROOT / "setup.py").read_text()
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        requirement, _, reason = line.partition("  # ")
        assert reason, f"constraints.txt: no reason for {line!r}"
        name = re.split(r"[<>=]", requirement)[0]
        assert re.search(rf'"{name}(\[\w+\])?>=', setup), (
            f"constraints.txt names {name}, which setup.py does not"
        )


def test_the_table_of_versions(tmp_path: Path) -> None:
    """One row for each Python and torch, newest last; a second run of a pair replaces its row."""
    page = tmp_path / "tested.md"
    for python, torch, result in (
        ("3.11.7", "2.15.0", "all"),
        ("3.11.7", "2.4.1", "failed: train"),
        ("3.9.1", "2.4.1", "all"),
        ("3.11.9", "2.4.2", "all"),
    ):
        release_check.add_row(page, [python, torch, "1", "2", "3", result, "2026-01-01"])
    rows = [line.split(" | ") for line in page.read_text().splitlines() if re.match(r"\| \d", line)]
    assert [(row[0], row[1], row[5]) for row in rows] == [
        ("| 3.9.1", "2.4.1", "all"),
        ("| 3.11.9", "2.4.2", "all"),
        ("| 3.11.7", "2.15.0", "all"),
    ]


def test_a_command_that_fails_is_named(tmp_path: Path) -> None:
    """Of a wheel that is none: pip fails, and the row says so."""
    (tmp_path / "rmae_d2-0.2.0-py3-none-any.whl").write_text("no wheel")
    row = release_check.tried(
        sys.executable, "", tmp_path / "rmae_d2-0.2.0-py3-none-any.whl", tmp_path / "environment"
    )
    assert row[0] == ".".join(map(str, sys.version_info[:3])) and row[1] == "-"
    assert row[5] == "failed: python -m pip"


def test_the_dockerfile() -> None:
    """Linted; its commands are shell, and install extras that exist."""
    hadolint = Path(sys.executable).with_name("hadolint")
    if hadolint.exists():
        done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    text = re.sub(r"\\\n", "", (ROOT / "Dockerfile").read_text())
    commands = re.findall(r"^RUN (.*)$", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        subprocess.run(["sh", "-n", "-c", command], check=True)
    (extras,) = re.findall(r"\.\[([\w,]+)\]", text)
    known = metadata("rmae_d2").get_all("Provides-Extra")
    assert known is not None and set(extras.split(",")) <= set(known)
