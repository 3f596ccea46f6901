"""The Detectron2 installer, run for real on the geowatch wheel (fetched by pip if it can be)."""

import base64
import csv
import email.parser
import hashlib
import io
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rmae_d2.commands import install_detectron2 as tool

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "install_detectron2.py"
CLOSED_PORT = "http://127.0.0.1:9/simple"  # the discard port: nothing listens there


def run_tool(
    *arguments: str | Path,
    python: str | Path = sys.executable,
    flags: tuple[str, ...] = (),
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run the tool as a user would, with environment variables added."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    command = [str(python), *flags, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


@pytest.fixture(scope="session")
def geowatch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pinned geowatch wheel."""
    try:
        return tool.download_geowatch(tmp_path_factory.mktemp("geowatch"))
    except tool.InstallError as error:
        pytest.skip(f"the geowatch wheel cannot be downloaded: {str(error).splitlines()[-1]}")


@pytest.fixture(scope="session")
def wheel(geowatch: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Detectron2 wheel built of it, through the command line."""
    folder = tmp_path_factory.mktemp("wheel")
    result = run_tool("--wheel", geowatch, "--build-only", folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"wrote {folder / tool.WHEEL_NAME}\n"
    return folder / tool.WHEEL_NAME


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH into which pip has installed that wheel."""
    target = tmp_path_factory.mktemp("target")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True)
    return target


def run_python(code: str, path: Path, cwd: Path) -> str:
    """Standard output of a fresh Python that has ``path`` first on sys.path."""
    env = dict(os.environ) | {"PYTHONPATH": str(path)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=cwd, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_record_lists_every_file_with_its_hash_and_size(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        contents = {name: archive.read(name) for name in archive.namelist()}
    record = f"{tool.DIST_INFO}/RECORD"
    rows = list(csv.reader(io.StringIO(contents[record].decode())))
    assert [row[0] for row in rows] == list(contents)
    for name, digest, size in rows:
        if name == record:
            assert (digest, size) == ("", "")
            continue
        expected = base64.urlsafe_b64encode(hashlib.sha256(contents[name]).digest()).rstrip(b"=")
        assert digest == f"sha256={expected.decode()}"
        assert int(size) == len(contents[name])


def test_metadata_licence_and_notice(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        read = {
            name: archive.read(f"{tool.DIST_INFO}/{name}").decode()
            for name in ("METADATA", "WHEEL", "LICENSE", "NOTICE")
        }
    metadata = email.parser.Parser().parsestr(read["METADATA"])
    assert (metadata["Name"], metadata["Version"]) == ("detectron2", "0.6+rmae")
    names = {re.split(r"[<>=]", line)[0] for line in metadata.get_all("Requires-Dist", [])}
    assert {"fvcore", "iopath", "omegaconf", "hydra-core", "pycocotools", "yacs"} <= names
    assert not {"torch", "torchvision", "geowatch", "kwimage", "kwcoco"} & names
    assert email.parser.Parser().parsestr(read["WHEEL"])["Tag"] == "py3-none-any"
    assert "Apache License" in read["LICENSE"] and "Version 2.0" in read["LICENSE"]
    for changed in tool.EDITS:
        assert changed in read["NOTICE"]


def test_only_the_named_files_differ_from_the_copy(geowatch: Path, wheel: Path) -> None:
    original = tool.read_subtree(geowatch)
    with zipfile.ZipFile(wheel) as archive:
        ours = {n: archive.read(n) for n in archive.namelist() if tool.DIST_INFO not in n}
    assert set(ours) == set(original)
    assert {name for name in ours if ours[name] != original[name]} == set(tool.EDITS)
    for name in tool.EDITS:
        compile(ours[name], name, "exec")
        assert ours[name].startswith(b"# Changed by rmae_d2")
        assert not re.search(rb"kwcoco|kwimage", ours[name], re.IGNORECASE)


def test_same_bytes_on_every_build(geowatch: Path, wheel: Path, tmp_path: Path) -> None:
    old_mask = os.umask(0o077)
    try:
        again = tool.build_wheel(geowatch, tmp_path / "new" / "folder")
    finally:
        os.umask(old_mask)
    assert again.read_bytes() == wheel.read_bytes()
    assert [path.name for path in again.parent.iterdir()] == [tool.WHEEL_NAME]


def test_installed_copy_imports_and_reads_coco_and_exif(installed: Path, tmp_path: Path) -> None:
    """Polygons, RLE and keypoints load without kwimage; a photo is turned as its EXIF tag says."""
    pytest.importorskip("torch")
    (tmp_path / "work").mkdir()
    code = f"""
import json, pathlib, sys
{tool.VERIFY}
assert detectron2.__file__.startswith({str(installed)!r}), detectron2.__file__
from PIL import Image
from detectron2.data.datasets.coco import load_coco_json
from detectron2.data.detection_utils import read_image

image = Image.new("RGB", (6, 4))
exif = image.getexif()
exif[0x0112] = 6  # turn by 90 degrees to see it upright
image.save("turned.jpg", exif=exif)
assert read_image("turned.jpg", "RGB").shape == (6, 4, 3)

common = {{"image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 2, 2], "area": 4}}
polygon = [[0, 0, 2, 0, 2, 2]]
rle = {{"size": [4, 6], "counts": [0, 2, 22]}}
content = {{
    "images": [{{"id": 1, "file_name": "turned.jpg", "height": 4, "width": 6}}],
    "categories": [{{"id": 1, "name": "thing"}}],
    "annotations": [
        {{"id": 1, "segmentation": polygon, "keypoints": [1, 2, 2], **common}},
        {{"id": 2, "segmentation": rle, **common}},
    ],
}}
pathlib.Path("coco.json").write_text(json.dumps(content))
first, second = load_coco_json("coco.json", ".", "coco_of_the_test")[0]["annotations"]
assert first["segmentation"] == polygon and first["keypoints"] == [1.5, 2.5, 2], first
assert isinstance(second["segmentation"]["counts"], bytes), second
assert not [name for name in sys.modules if name.startswith(("kwimage", "kwcoco", "geowatch"))]
print("fine")
"""
    assert run_python(code, installed, tmp_path / "work").splitlines()[-1] == "fine"


def test_wrong_wheels_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "geowatch-0.20.0-py3-none-any.whl"
    other.write_bytes(b"not the wheel")
    result = run_tool("--wheel", other, "--build-only", tmp_path / "out")
    assert result.returncode == 1 and tool.GEOWATCH_SHA256 in result.stderr
    assert hashlib.sha256(b"not the wheel").hexdigest() in result.stderr
    absent = tmp_path / "absent.whl"
    result = run_tool("--wheel", absent, "--build-only", tmp_path / "out")
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: Cannot read the wheel {absent}")
    assert not (tmp_path / "out").exists()


def test_offline_says_what_was_tried_and_what_to_do(tmp_path: Path) -> None:
    result = run_tool(
        "--build-only",
        tmp_path / "out",
        PIP_CONFIG_FILE=os.devnull,
        PIP_INDEX_URL=CLOSED_PORT,
        PIP_EXTRA_INDEX_URL="",
        PIP_FIND_LINKS="",
        PIP_NO_CACHE_DIR="1",
        PIP_RETRIES="0",
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Could not download geowatch==0.20.0" in result.stderr
    assert "--wheel FILE" in result.stderr
    assert "tried: " in result.stderr and "it said:" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_without_pip_says_so() -> None:
    result = run_tool(flags=("-S",))  # no site-packages: neither pip nor Detectron2
    assert result.returncode == 1
    assert "has no pip" in result.stderr and "ensurepip" in result.stderr


def test_from_source_excludes_the_other_ways(tmp_path: Path) -> None:
    result = run_tool("--from-source", "main", "--build-only", tmp_path)
    assert result.returncode == 2
    assert "--from-source goes with neither" in result.stderr


def fake_detectron2(folder: Path, vit: str = "backbone/vit.py", evaluation: str = "") -> Path:
    """A package with the files that are looked at; a recent one by default."""
    package = folder / "detectron2"
    content = {
        f"modeling/{vit}": "",
        "evaluation/sem_seg_evaluation.py": evaluation,
        "__init__.py": 'raise SystemExit("imported")\n__version__ = "0.5.9"\n',
    }
    for name, text in content.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return package


@pytest.mark.parametrize(
    ("old", "problem"),
    [
        ({"vit": "backbone/fpn.py"}, "the ViT backbone is missing"),
        ({"evaluation": "np.array(x, copy=copy)"}, "semantic segmentation breaks on numpy 2"),
    ],
)
def test_old_detectron2_is_refused_with_the_remedy(
    tmp_path: Path, old: dict[str, str], problem: str
) -> None:
    package = fake_detectron2(tmp_path, **old)
    result = run_tool(PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert f"Detectron2 0.5.9 at {package} is too old: {problem}" in result.stderr
    assert "pip uninstall detectron2" in result.stderr and "--from-source" in result.stderr


def test_recent_detectron2_is_used_as_it_is_without_importing_it(tmp_path: Path) -> None:
    package = fake_detectron2(tmp_path)
    result = run_tool(PYTHONPATH=str(tmp_path))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"using Detectron2 0.5.9 at {package}\n"


def test_own_copy_passes_the_age_check(installed: Path) -> None:
    result = run_tool(PYTHONPATH=str(installed))
    assert result.stdout == f"using Detectron2 0.6+rmae at {installed / 'detectron2'}\n"


def test_folder_without_init_is_not_detectron2(tmp_path: Path) -> None:
    (tmp_path / "detectron2").mkdir()
    result = run_tool(flags=("-S",), PYTHONPATH=str(tmp_path))
    assert "has no pip" in result.stderr  # it went on to install one


@pytest.mark.slow
def test_install_show_rerun_uninstall_in_a_fresh_environment(
    geowatch: Path, tmp_path: Path
) -> None:
    """The whole way with the network, in an environment without torch."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    first = run_tool("--wheel", geowatch, python=python)
    if "and what it needs at run time" in first.stderr:
        pytest.skip(f"its requirements cannot be downloaded: {first.stderr.splitlines()[-1]}")
    assert first.returncode == 0, first.stderr
    assert "installed Detectron2 0.6+rmae" in first.stdout and "no torch here yet" in first.stdout

    def pip(*arguments: str) -> str:
        command = [str(python), "-m", "pip", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "Version: 0.6+rmae" in pip("show", "detectron2")
    assert "geowatch" not in pip("list")
    assert "detectron2==0.6+rmae" in pip("freeze").split()
    again = run_tool(python=python)
    assert again.returncode == 0 and again.stdout.startswith("using Detectron2 0.6+rmae at ")
    pip("uninstall", "--yes", "detectron2")
    left = [p for p in (tmp_path / "venv").rglob("detectron2*") if "pycache" not in str(p)]
    assert left == []
