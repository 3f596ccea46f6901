"""Gives this Python environment a Detectron2 that needs no compiler.

Detectron2 is not on PyPI and its published wheels stop at torch 1.10. An existing Detectron2 is used
as it is, if it is from mid-2024 or later. Otherwise a pure-Python copy is taken from
the PyPI wheel of geowatch (pinned, and checked by sha256), that project's local edits are undone,
and the result is packed as an ordinary wheel and installed, so that ``pip show detectron2`` and
``pip uninstall detectron2`` work. geowatch itself is never installed.

    rmae-d2 install-detectron2                        the usual way
    rmae-d2 install-detectron2 --wheel geowatch.whl   offline: wheel fetched beforehand
    rmae-d2 install-detectron2 --build-only dist/     write the wheel, install nothing
    rmae-d2 install-detectron2 --from-source [REV]    upstream, with compiled operators

This file needs only the standard library, and nothing from its package: run by its path, as
``python tools/install_detectron2.py`` does, it works before anything is installed.
"""

import argparse
import base64
import hashlib
import importlib.metadata
import importlib.util
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
TOOL = f"{sys.executable} {Path(__file__).resolve()}"  # works in a checkout and in a wheel
SOURCE_REPOSITORY = "https://github.com/facebookresearch/detectron2.git"

GEOWATCH = "geowatch==0.20.0"
GEOWATCH_SHA256 = "b1c580a69e2966610b1b9c6ff9647800a17fa8898ef4c3737e48097a7630c381"
SUBTREE = "geowatch_tpl/submodules_static/detectron2/"  # holds detectron2/

# A local version: PEP 440 sorts it after upstream's 0.6 and it can never be mistaken for a release.
VERSION = "0.6+rmae"
WHEEL_NAME = f"detectron2-{VERSION}-py3-none-any.whl"
DIST_INFO = f"detectron2-{VERSION}.dist-info"

# Run-time imports of the package. Deliberately absent: torch and torchvision, as in upstream's
# metadata (the choice of build is the user's), and timm, which would pull in torch.
# fvcore's range is upstream's; upstream limits iopath to below 0.1.10, and 0.1.10 is tested here.
REQUIREMENTS = """
Pillow>=7.1 cloudpickle fvcore>=0.1.5,<0.1.6 hydra-core>=1.1 iopath>=0.1.7 matplotlib omegaconf>=2.1
packaging pycocotools>=2.0.2 tabulate tensorboard termcolor>=1.1 tqdm>4.29.0 yacs>=0.1.8
"""

# geowatch's edits, as lines (first, last) and upstream's text to replace them, by file below SUBTREE;
# the sha256 above guarantees the content of these lines.
EDITS: dict[str, tuple[tuple[int, int, str], ...]] = {
    "detectron2/data/datasets/coco.py": (
        # Zipped annotation files, read through kwcoco.
        (70, 69, "    from pycocotools.coco import COCO\n\n"),
        (72, 75, "    with contextlib.redirect_stdout(io.StringIO()):\n"),
        (77, 82, ""),
        (166, 170, ""),  # the switch that makes every COCO file need kwimage
        (200, 207, ""),  # polygons and RLEs through kwimage
        (213, 217, ""),  # a polygon that is not a list of polygons
        (227, 228, ""),  # keypoints through kwimage
        (230, 230, ""),
    ),
    "detectron2/data/detection_utils.py": ((138, 138, ""),),  # EXIF orientation switched off
}

# First line of a changed file (Apache License 2.0, 4b).
CHANGED = "# Changed by rmae_d2's install_detectron2.py: see NOTICE in the dist-info folder.\n"

NOTICE = f"""\
Detectron2
Copyright (c) Facebook, Inc. and its affiliates.
Licensed under the Apache License, Version 2.0 (see LICENSE); source: {SOURCE_REPOSITORY}

This wheel was built by rmae_d2's install_detectron2.py from the copy of Detectron2
(upstream of November 2024) that the PyPI wheel {GEOWATCH} carries in the folder
{SUBTREE}
(sha256 of that wheel: {GEOWATCH_SHA256}).
It holds the Python code only: no compiled operators, no model zoo configurations.

Changed with respect to that copy, in order to restore upstream's behaviour:
  detectron2/data/datasets/coco.py: geowatch's kwcoco/kwimage handling removed.
  detectron2/data/detection_utils.py: an early return that switched EXIF orientation off removed.
Left as geowatch changed it (reached only by annotation files named *.zip, which need kwcoco):
  detectron2/evaluation/coco_evaluation.py.
"""

VERIFY = """\
import detectron2.checkpoint, detectron2.config, detectron2.data
import detectron2.engine, detectron2.evaluation, detectron2.modeling
"""


class InstallError(Exception):
    """Something the user has to fix; its text is the whole message."""


def find_detectron2() -> tuple[str, Path] | None:
    """Returns version and folder of the Detectron2 that ``import detectron2`` would find, if any.

    Looks without importing. A folder named ``detectron2`` without ``__init__.py`` (a clone of the
    repository on the path) does not count.
    """
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    # pip's version is more precise (0.6+rmae), but may belong to another copy, hidden by this one.
    for distribution in importlib.metadata.distributions(name="detectron2"):
        if Path(str(distribution.locate_file("detectron2"))).resolve() == package.resolve():
            return distribution.version, package
    match = re.search(r'^__version__ = "([^"]+)"', Path(spec.origin).read_text("utf-8"), re.M)
    return match.group(1) if match else "(of unknown version)", package


def age_problem(package: Path) -> str | None:
    """Describes why the Detectron2 in this folder is too old; None if it is from mid-2024 or later.

    Files are read, not imported: importing Detectron2 imports torch, which may be absent and is slow.
    """
    if not (package / "modeling/backbone/vit.py").is_file():
        return "the ViT backbone is missing (upstream, June 2022)"
    if "copy=copy" in (package / "evaluation/sem_seg_evaluation.py").read_text("utf-8"):
        return "semantic segmentation breaks on numpy 2 (fixed June 2024, pull request 5312)"
    return None


def check_existing(version: str, package: Path) -> None:
    """Raise InstallError if the Detectron2 found is too old to use."""
    if problem := age_problem(package):
        raise InstallError(
            f"Detectron2 {version} at {package} is too old: {problem}.\nEither remove it and let this "
            f"tool install one:\n    {sys.executable} -m pip uninstall detectron2  (or take its folder "
            f"off PYTHONPATH)\n    {TOOL}\nor build upstream's newest, with its compiled operators:\n"
            f"    {TOOL} --from-source"
        )


def run_python(arguments: Sequence[str], failure: str, cwd: Path | None = None) -> None:
    """Run this interpreter; raise InstallError with ``failure`` and the last lines of its output."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=cwd)
    if done.returncode != 0:
        lines = [x.rstrip() for x in (done.stderr or done.stdout).splitlines() if x.strip()][-8:]
        tail = "".join(f"\n    {line}" for line in lines)
        raise InstallError(f"{failure}\n  tried: {' '.join(command)}\n  it said:{tail}")


def run_pip(arguments: Sequence[str], failure: str) -> None:
    """Run this interpreter's pip."""
    if importlib.util.find_spec("pip") is None:
        raise InstallError(
            f"{sys.executable} has no pip. Remedy: {sys.executable} -m ensurepip "
            "(uv: uv pip install pip)"
        )
    name, *options = arguments
    pip = ["-m", "pip", "--disable-pip-version-check", name, "--quiet"]
    run_python([*pip, *options], failure)


def download_geowatch(folder: Path) -> Path:
    """Fetch the pinned geowatch wheel into a folder with pip."""
    # The wheel is only unpacked, so its own Python range does not concern us.
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--ignore-requires-python",
        "--dest",
        str(folder),
    ]
    run_pip(
        ["download", *options, GEOWATCH],
        f"Could not download {GEOWATCH} (3 MB), whose copy of Detectron2 this tool installs.\n  remedy: "
        "connect to the network (or set pip's index or proxy) and run this again; or, on a machine\n"
        f"    with a network, run `pip download --no-deps {GEOWATCH}`, bring the file here and run\n"
        f"    {TOOL} --wheel FILE",
    )
    return next(folder.glob("geowatch-*.whl"))


def read_subtree(geowatch_wheel: Path) -> dict[str, bytes]:
    """Reads files below SUBTREE of the geowatch wheel, by path, after checking the wheel's sha256."""
    try:
        data = geowatch_wheel.read_bytes()
    except OSError as error:
        raise InstallError(f"Cannot read the wheel {geowatch_wheel}: {error.strerror}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != GEOWATCH_SHA256:
        raise InstallError(
            f"{geowatch_wheel} is not the {GEOWATCH} wheel: its sha256 is\n    {digest}\nexpected\n"
            f"    {GEOWATCH_SHA256}\nFetch it anew: pip download --no-deps {GEOWATCH}"
        )
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [n for n in archive.namelist() if n.startswith(SUBTREE) and not n.endswith("/")]
        return {name[len(SUBTREE) :]: archive.read(name) for name in names}


def undo_edits(files: dict[str, bytes]) -> dict[str, bytes]:
    """Returns the files with EDITS undone; each changed file states so in its first line."""
    patched = dict(files)
    for name, edits in EDITS.items():
        lines = files[name].decode("utf-8").splitlines(keepends=True)
        for first, last, upstream in reversed(edits):
            lines[first - 1 : last] = [upstream]
        patched[name] = (CHANGED + "".join(lines)).encode("utf-8")
    return patched


def metadata_files() -> dict[str, bytes]:
    """Returns the wheel's dist-info files, except RECORD."""
    requires = "\n".join(f"Requires-Dist: {requirement}" for requirement in REQUIREMENTS.split())
    metadata = f"""\
Metadata-Version: 2.1
Name: detectron2
Version: {VERSION}
Summary: Detectron2 (upstream of November 2024), Python code only
License: Apache-2.0
Requires-Python: >=3.8
{requires}
Description-Content-Type: text/plain

{NOTICE}"""
    wheel = "Wheel-Version: 1.0\nGenerator: rmae_d2\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    # Apache-2.0 like Detectron2: the same text. In a wheel, it is inside the package.
    folder = PACKAGE if (PACKAGE / "LICENSE").is_file() else PACKAGE.parent
    return {
        f"{DIST_INFO}/METADATA": metadata.encode(),
        f"{DIST_INFO}/WHEEL": wheel.encode(),
        f"{DIST_INFO}/LICENSE": (folder / "LICENSE").read_bytes(),
        f"{DIST_INFO}/NOTICE": NOTICE.encode(),
    }


def build_wheel(geowatch_wheel: Path, folder: Path) -> Path:
    """Writes the Detectron2 wheel; the same bytes on every machine.

    Entries are sorted (dist-info last, as the format advises), dated 1980 and stored uncompressed,
    because zlib's output differs between its versions.
    """
    files = dict(sorted(undo_edits(read_subtree(geowatch_wheel)).items())) | metadata_files()
    record = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(data)}\n")
    files[f"{DIST_INFO}/RECORD"] = "".join([*record, f"{DIST_INFO}/RECORD,,\n"]).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InstallError(f"Cannot make the folder {folder}: {error.strerror}") from error
    path = folder / WHEEL_NAME
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3  # Unix, on every platform
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return path


def install_wheel(wheel: Path) -> None:
    """Installs a Detectron2 wheel and its missing requirements with pip, replacing any existing one."""
    run_pip(
        ["install", str(wheel)],
        f"Could not install {wheel.name} and what it needs at run time.\n  remedy: its requirements come "
        "from pip's index; connect to the network (or set pip's index,\n    proxy or find-links) and run "
        "this again",
    )
    # Again by name, so that `pip freeze` shows no temporary folder, and in case this version was there.
    options = ["--force-reinstall", "--no-deps", "--no-index", "--find-links", str(wheel.parent)]
    name, version = wheel.name.split("-")[:2]
    run_pip(["install", *options, f"{name}=={version}"], f"Could not install {wheel.name}.")


def build_from_source(revision: str, folder: Path) -> Path:
    """Builds upstream's wheel, compiled operators included, at a git revision."""
    # The same build as `pip install --no-build-isolation git+...`, but an older Detectron2 stays
    # in place until this build has succeeded.
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    run_pip(
        ["wheel", *options, f"git+{SOURCE_REPOSITORY}@{revision}"],
        f"Could not build Detectron2 ({revision}) from source.\n  remedy: it needs git, a network, torch, a "
        "C++ compiler (and nvcc for a CUDA build of torch), and\n    `pip install setuptools wheel ninja`; "
        "without them, run this without --from-source",
    )
    return next(folder.glob("detectron2-*.whl"))


def verify() -> str:
    """Imports what rmae_d2 uses of Detectron2 in a fresh process; returns what was found.

    Raises:
        InstallError: if the import fails, or pip installed where this interpreter does not look.
    """
    found = find_detectron2()
    if found is None:
        raise InstallError(
            "pip installed Detectron2 where this Python does not look (PIP_TARGET, PIP_PREFIX or "
            f"PIP_USER set?). sys.path: {sys.path}"
        )
    version, package = found
    check_existing(version, package)
    if importlib.util.find_spec("torch") is None:
        return f"installed Detectron2 {version} at {package} (not imported: no torch here yet)"
    run_python(
        ["-c", VERIFY],
        f"Detectron2 {version} was installed at {package} but does not import.\n  remedy: pip-install the "
        "package that is missing; tested versions are in constraints.txt",
        cwd=package.parent,  # so that no other folder named detectron2 is found
    )
    return f"installed Detectron2 {version} at {package}; it imports"


def install(args: argparse.Namespace) -> str:
    """Executes the command line; returns the line to print at the end."""
    existing = find_detectron2()
    if args.build_only is None and args.from_source is None and existing is not None:
        check_existing(*existing)
        return f"using Detectron2 {existing[0]} at {existing[1]}"
    with tempfile.TemporaryDirectory(prefix="detectron2-") as name:
        scratch = Path(name)
        if args.from_source is not None:
            wheel = build_from_source(args.from_source, scratch)
        else:
            source = args.wheel or download_geowatch(scratch)
            wheel = build_wheel(source, args.build_only or scratch)
        if args.build_only is not None:
            return f"wrote {wheel}"
        install_wheel(wheel)
    return verify()


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--wheel", type=Path, metavar="FILE", help=f"use this {GEOWATCH} wheel, download nothing")
    add("--build-only", type=Path, metavar="DIR", help="write the wheel to DIR, install nothing")
    what = "build upstream at a git revision (default: main) with its compiled operators"
    add("--from-source", nargs="?", const="main", metavar="REVISION", help=what)


def run(args: argparse.Namespace) -> int:
    """Catches its own errors, because it has to run without its package."""
    if args.from_source is not None and (args.wheel or args.build_only):
        print("error: --from-source goes with neither --wheel nor --build-only", file=sys.stderr)
        return 2
    try:
        print(install(args))
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    command_line = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments(command_line)
    sys.exit(run(command_line.parse_args()))
