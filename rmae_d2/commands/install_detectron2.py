"""Give this Python environment a Detectron2 that needs no compiler.

Detectron2 is not on PyPI and its published wheels stop at torch 1.10. A Detectron2 that is already
there is used as it is, if it is from mid-2024 or later. Otherwise a pure-Python copy is taken from
the PyPI wheel of geowatch (pinned, and checked by sha256), that project's local edits are undone,
and the result is packed as an ordinary wheel and installed, so that ``pip show detectron2`` and
``pip uninstall detectron2`` work. geowatch itself is never installed.

    rmae-d2 install-detectron2                        the usual way
    rmae-d2 install-detectron2 --wheel geowatch.whl   offline: wheel fetched beforehand
    rmae-d2 install-detectron2 --build-only dist/     write the wheel, install nothing
    rmae-d2 install-detectron2 --from-source [REV]    upstream, with compiled operators

This file needs the standard library only, and nothing of its package: run by its path, as
``python tools/install_detectron2.py`` does, it works before anything is installed.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import re
import stat
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

# What the package imports at run time. Absent on purpose: torch and torchvision, as in upstream's
# own metadata (which build of torch is wanted is the user's choice), and timm, which would pull
# torch in (only the ViT, MViT and Swin backbones import it; rmae_d2 requires it itself).
# fvcore's range is upstream's; iopath's stops below 0.1.10 there, and 0.1.10 is tested here.
REQUIREMENTS = """
Pillow>=7.1 cloudpickle fvcore>=0.1.5,<0.1.6 hydra-core>=1.1 iopath>=0.1.7 matplotlib omegaconf>=2.1
packaging pycocotools>=2.0.2 tabulate tensorboard termcolor>=1.1 tqdm>4.29.0 yacs>=0.1.8
"""

# geowatch's edits, each as (its text, upstream's text), per file below SUBTREE. Each text must
# occur exactly once: anything else means that the wheel is not the one that this was written for.
EDITS: dict[str, tuple[tuple[str, str], ...]] = {
    "detectron2/data/datasets/coco.py": (
        (  # zipped annotation files, read through kwcoco
            """\
    timer = Timer()
    json_file = PathManager.get_local_path(json_file)

    if os.fspath(json_file).endswith('.zip'):
        # Use kwcoco instead
        from kwcoco.compat_dataset import COCO  # NOQA
        coco_api = COCO(json_file)
        # coco_api.conform(legacy=True)
        # kwcoco_dset = kwcoco.CocoDataset(json_file)
    else:
        from pycocotools.coco import COCO
        with contextlib.redirect_stdout(io.StringIO()):
            coco_api = COCO(json_file)
""",
            """\
    from pycocotools.coco import COCO

    timer = Timer()
    json_file = PathManager.get_local_path(json_file)
    with contextlib.redirect_stdout(io.StringIO()):
        coco_api = COCO(json_file)
""",
        ),
        (  # the switch that makes every COCO file need kwimage
            """\
    # TODO: MAKE ACCEPTING KWCOCO STYLE SEGMENTATIONS CONFIGURABLE
    HANDLE_KWCOCO_FORMATS = True
    if HANDLE_KWCOCO_FORMATS:
        import kwimage

""",
            "",
        ),
        (
            """\
            if segm:  # either list[list[float]] or dict(RLE)

                if HANDLE_KWCOCO_FORMATS:
                    try:
                        segm = kwimage.Segmentation.coerce(segm).to_coco(style='orig')
                    except Exception:
                        # undo bad hack
                        segm = kwimage.Segmentation.coerce(segm[0]).to_coco(style='orig')

                if isinstance(segm, dict):
""",
            """\
            if segm:  # either list[list[float]] or dict(RLE)
                if isinstance(segm, dict):
""",
        ),
        (
            """\
                    # Subsequent code seems to assume multipolygons
                    from numbers import Number
                    if len(segm) and isinstance(segm[0], Number):
                        segm = [segm]

""",
            "",
        ),
        (
            """\
                if HANDLE_KWCOCO_FORMATS:
                    keypts = kwimage.Points.coerce(keypts).to_coco(style='orig')
                for idx, v in enumerate(keypts):
                    # TODO: MAKE APPLYING THIS HACK CONFIGURABLE
""",
            """\
                for idx, v in enumerate(keypts):
""",
        ),
    ),
    "detectron2/data/detection_utils.py": (
        (  # EXIF orientation switched off
            """\
    return image
    if not hasattr(image, "getexif"):
        return image
""",
            """\
    if not hasattr(image, "getexif"):
        return image
""",
        ),
    ),
}

# First line of a changed file (Apache License 2.0, 4b).
CHANGED = "# Changed by rmae_d2's install_detectron2.py: see NOTICE in the dist-info folder.\n"

# Signs of age, in the order in which upstream fixed them: (file, text that must not be in it or
# None for "the file must exist", what is wrong). Files are read, not imported: importing Detectron2
# imports torch, which may be absent and is slow.
PROBES: tuple[tuple[str, str | None, str], ...] = (
    ("config/lazy.py", None, "LazyConfig is missing (upstream, 2021)"),
    ("modeling/backbone/vit.py", None, "the ViT backbone is missing (upstream, June 2022)"),
    ("data/transforms/transform.py", "Image.LINEAR", "it breaks on Pillow 10 (fixed July 2023)"),
    (
        "evaluation/sem_seg_evaluation.py",
        "copy=copy",
        "semantic segmentation evaluation breaks on numpy 2 (fixed June 2024, pull request 5312)",
    ),
)

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
import warnings
warnings.simplefilter("ignore")
import detectron2
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.data import MetadataCatalog
from detectron2.engine import SimpleTrainer, launch
from detectron2.evaluation import COCOEvaluator, SemSegEvaluator
from detectron2.modeling import META_ARCH_REGISTRY, SimpleFeaturePyramid, ViT
"""


class InstallError(Exception):
    """Something the user has to act on; its text is the whole message."""


def find_detectron2() -> tuple[str, Path] | None:
    """Version and folder of the Detectron2 that ``import detectron2`` would give, if any.

    Looks without importing. A folder named ``detectron2`` without ``__init__.py`` (a clone of the
    repository on the path) is not one.
    """
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    # pip's version says more (0.6+rmae), but it may be that of another copy, hidden by this one.
    for distribution in importlib.metadata.distributions(name="detectron2"):
        if Path(str(distribution.locate_file("detectron2"))).resolve() == package.resolve():
            return distribution.version, package
    match = re.search(r'^__version__ = "([^"]+)"', Path(spec.origin).read_text("utf-8"), re.M)
    return match.group(1) if match else "(of unknown version)", package


def age_problem(package: Path) -> str | None:
    """What is too old about the Detectron2 in this folder; None if it is from mid-2024 or later."""
    for name, forbidden, problem in PROBES:
        path = package / name
        if not path.is_file():
            return problem if forbidden is None else f"{name} is missing"
        if forbidden is not None and forbidden in path.read_text(encoding="utf-8"):
            return problem
    return None


def check_existing(version: str, package: Path) -> None:
    """Raise InstallError if the Detectron2 found is too old to use."""
    if problem := age_problem(package):
        raise InstallError(
            f"Detectron2 {version} at {package} is too old: {problem}.\nrmae_d2 needs one from mid-2024 or "
            "later. Either remove it and let this tool install one:\n"
            f"    {sys.executable} -m pip uninstall detectron2  (or take its folder off PYTHONPATH)\n"
            f"    {TOOL}\nor build upstream's newest, with its compiled operators (needs torch and a C++ "
            f"compiler):\n    {TOOL} --from-source"
        )


def run_pip(arguments: Sequence[str], failure: str) -> None:
    """Run this interpreter's pip; raise InstallError with ``failure`` and pip's last lines."""
    if importlib.util.find_spec("pip") is None:
        raise InstallError(
            f"{sys.executable} has no pip. Remedy: {sys.executable} -m ensurepip "
            "(uv: uv pip install pip)"
        )
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if result.returncode != 0:
        tail = "\n".join(f"    {line}" for line in output_tail(result.stderr or result.stdout))
        raise InstallError(f"{failure}\n  tried: {' '.join(command)}\n  pip said:\n{tail}")


def output_tail(text: str, lines: int = 8) -> list[str]:
    """Last lines of a program's output, without empty ones."""
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def download_geowatch(folder: Path) -> Path:
    """Fetch the pinned geowatch wheel into a folder with pip, which checks its hash."""
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{GEOWATCH} --hash=sha256:{GEOWATCH_SHA256}\n", encoding="utf-8")
    # The wheel is only unpacked, so its own Python range does not concern us.
    options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--require-hashes"]
    run_pip(
        ["download", "--quiet", *options, "--dest", str(folder), "--requirement", str(requirement)],
        f"Could not download {GEOWATCH} (3 MB), whose copy of Detectron2 this tool installs.\n  remedy: "
        "connect to the network (or set pip's index or proxy) and run this again; or, on a machine\n"
        f"    with a network, run `pip download --no-deps {GEOWATCH}`, bring the file here and run\n"
        f"    {TOOL} --wheel FILE",
    )
    wheels = sorted(folder.glob("geowatch-*.whl"))
    if len(wheels) != 1:
        raise InstallError(f"pip download of {GEOWATCH} left {len(wheels)} wheels in {folder}")
    return wheels[0]


def read_subtree(geowatch_wheel: Path) -> dict[str, bytes]:
    """Files below SUBTREE of the geowatch wheel, by path, after checking the wheel's sha256."""
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
    """The files with EDITS undone, each changed file saying so in its first line.

    Raises:
        InstallError: a file is missing, or a text does not occur exactly once in it.
    """
    patched = dict(files)
    for name, edits in EDITS.items():
        if name not in patched:
            raise InstallError(f"{name} is missing from the {GEOWATCH} wheel: nothing installed")
        text = patched[name].decode("utf-8")
        for theirs, upstream in edits:
            count = text.count(theirs)
            if count != 1:
                raise InstallError(
                    f"{name}: the text to undo occurs {count} times, not once; nothing was "
                    f"installed. The text begins:\n    {theirs.strip().splitlines()[0]}"
                )
            text = text.replace(theirs, upstream)
        patched[name] = (CHANGED + text).encode("utf-8")
    return patched


def metadata_files() -> dict[str, bytes]:
    """The wheel's dist-info files, RECORD excepted."""
    # Apache-2.0 like Detectron2: the same text. In a wheel it is in the package.
    found = [path for path in (PACKAGE / "LICENSE", PACKAGE.parent / "LICENSE") if path.is_file()]
    if not found:
        raise InstallError(
            f"{PACKAGE} and its parent have no LICENSE (Apache-2.0), which is needed"
        )
    requires = "\n".join(f"Requires-Dist: {requirement}" for requirement in REQUIREMENTS.split())
    metadata = f"""\
Metadata-Version: 2.1
Name: detectron2
Version: {VERSION}
Summary: Detectron2 (upstream of November 2024), Python code only
Home-page: https://github.com/facebookresearch/detectron2
Author: FAIR
License: Apache-2.0
License-File: LICENSE
License-File: NOTICE
Requires-Python: >=3.8
{requires}
Description-Content-Type: text/plain

{NOTICE}"""
    wheel = "Wheel-Version: 1.0\nGenerator: rmae_d2\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    texts = {
        "METADATA": metadata.encode(),
        "WHEEL": wheel.encode(),
        "top_level.txt": b"detectron2\n",
        "LICENSE": found[0].read_bytes(),
        "NOTICE": NOTICE.encode(),
    }
    return {f"{DIST_INFO}/{name}": data for name, data in texts.items()}


def record(files: dict[str, bytes]) -> bytes:
    """RECORD of a wheel: path, sha256 (urlsafe base64, unpadded) and size of every other file."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        writer.writerow([name, f"sha256={digest}", len(data)])
    writer.writerow([f"{DIST_INFO}/RECORD", "", ""])
    return out.getvalue().encode()


def build_wheel(geowatch_wheel: Path, folder: Path) -> Path:
    """Write the Detectron2 wheel; the same bytes on every machine.

    Entries are sorted (dist-info last, as the format advises), dated 1980 and stored uncompressed:
    what zlib makes of them differs between its versions.
    """
    files = dict(sorted(undo_edits(read_subtree(geowatch_wheel)).items()))
    files |= metadata_files()
    files[f"{DIST_INFO}/RECORD"] = record(files)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / WHEEL_NAME
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name, data in files.items():
                entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                entry.create_system = 3  # Unix, whatever this runs on
                entry.external_attr = (stat.S_IFREG | 0o644) << 16
                archive.writestr(entry, data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def install_wheel(wheel: Path) -> None:
    """pip-install a Detectron2 wheel over whatever is there, then its missing requirements."""
    # First the requirements: a run that ends there leaves no half-working Detectron2 behind.
    run_pip(
        ["install", "--quiet", *wheel_requirements(wheel)],
        "Could not install what Detectron2 needs at run time.\n  remedy: its requirements come from pip's "
        "index; connect to the network (or set pip's index,\n    proxy or find-links) and run this again",
    )
    # A second command, because --force-reinstall would reinstall the requirements as well. By name
    # rather than by path, so that `pip freeze` does not show a temporary folder.
    name, version = wheel.name.split("-")[:2]
    options = ["install", "--quiet", "--force-reinstall", "--no-deps"]
    run_pip(
        [*options, "--no-index", "--find-links", str(wheel.parent), f"{name}=={version}"],
        f"Could not install {wheel.name}.",
    )


def wheel_requirements(wheel: Path) -> list[str]:
    """Requirements that a wheel's METADATA names, without those of extras."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        header = archive.read(name).decode("utf-8").split("\n\n", 1)[0]
    lines = [line[14:].strip() for line in header.splitlines() if line.startswith("Requires-Dist:")]
    return [line for line in lines if "extra ==" not in line]


def build_from_source(revision: str, folder: Path) -> Path:
    """Build upstream's wheel, compiled operators included, at a git revision."""
    if importlib.util.find_spec("torch") is None:
        raise InstallError(
            "Building Detectron2 from source needs torch first, its operators being compiled "
            f"against it:\n    {sys.executable} -m pip install torch torchvision setuptools wheel"
        )
    # The same build as `pip install --no-build-isolation git+...`, but an older Detectron2 stays
    # in place until this one has been built.
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    run_pip(
        ["wheel", *options, f"git+{SOURCE_REPOSITORY}@{revision}"],
        f"Could not build Detectron2 ({revision}) from source.\n  remedy: it needs git, a network, a C++ "
        "compiler (and nvcc for a CUDA build of torch), and\n    `pip install setuptools wheel ninja`; "
        "without them, run this without --from-source",
    )
    return next(folder.glob("detectron2-*.whl"))


def verify() -> str:
    """Import what rmae_d2 uses of Detectron2 in a fresh process; say what was found.

    Raises:
        InstallError: the import fails, or pip installed where this interpreter does not look.
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
    with tempfile.TemporaryDirectory() as neutral:  # so that no folder named detectron2 is in reach
        done = subprocess.run(
            [sys.executable, "-c", VERIFY],
            capture_output=True,
            text=True,
            errors="replace",
            cwd=neutral,
        )
    if done.returncode != 0:
        tail = "\n".join(f"    {line}" for line in output_tail(done.stderr))
        raise InstallError(
            f"Detectron2 {version} was installed at {package} but does not import:\n{tail}\n"
            "  remedy: pip-install the package that is missing; tested versions are in constraints.txt"
        )
    return f"installed Detectron2 {version} at {package}; it imports"


def install(args: argparse.Namespace) -> str:
    """Do what the command line asks; returns the line to print at the end."""
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
    add(
        "--from-source",
        nargs="?",
        const="main",
        metavar="REVISION",
        help="build upstream at a git revision (default: main) with its compiled operators",
    )


def run(args: argparse.Namespace) -> int:
    """Catches its own errors, for it has to run without its package."""
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
