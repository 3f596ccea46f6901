"""Builds what a release hands out, checks it, and uses it as a stranger would: `make release-check`.

    python tools/release_check.py                                 this Python, the newest torch that fits
    python tools/release_check.py --torch 2.6.0 2.15.0 --python python3.11 python3.14
    python tools/release_check.py --wheel dist/rmae_d2-0.2.0-py3-none-any.whl     built already

Each pair of Python and torch gets an empty environment with the wheel and nothing of this checkout, runs
README's kind of commands in an empty folder, and becomes a row of docs/tested.md the moment it is through;
rows of other pairs stay. The exit code is 1 where anything failed. Needs the standard library alone.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/tested.md"
HEAD = """# What was tried with which versions

Made by `make release-check`: the wheel in an empty environment, and in an empty folder `rmae-d2 doctor`,
`scenes`, `inspect`, `train` (R-MAE, then ViTDet from it), `predict`, `visualize` with the shipped weights,
all on a CPU. The bounds in setup.py follow from this table. The test suite itself runs with the versions of
constraints.txt alone.

| Python | torch | torchvision | numpy | timm | commands that worked | when |
|---|---|---|---|---|---|---|
"""
SHOWN = ("torch", "torchvision", "numpy", "timm")

_RUN, _DETECTOR = "output/demo/rmae_tiny_scenes", "output/demo/vitdet_tiny_scenes"
_SHORT = ["train.max_iter=4", "train.eval_period=4", "train.device=cpu"]
_SHORT += [f"dataloader.{part}.num_workers=1" for part in ("train", "test")]
#: What a stranger types, with scenes in place of photos.
COMMANDS: list[list[str]] = [
    ["doctor"],
    ["scenes", "--num-train", "16", "--num-val", "4"],
    [
        "inspect",
        "datasets/scenes/annotations/instances_val.json",
        "--images",
        "datasets/scenes/val",
    ],
    ["train", "--config-file", "demo/rmae_tiny_scenes.py", *_SHORT],
    ["train", "--config-file", "demo/vitdet_tiny_scenes.py", *_SHORT]
    + [f"train.init_checkpoint={_RUN}/model_final.pth"],
    [
        "predict",
        "--config-file",
        f"{_DETECTOR}/config.yaml",
        "--weights",
        f"{_DETECTOR}/model_final.pth",
    ]
    + ["--input", "datasets/scenes/val", "--output", "predictions"],
    ["visualize", "reconstruction", "--input", "datasets/scenes/val", "--max-images", "2"],
]


def main(words: Sequence[str] | None = None) -> int:
    """Parses the command line, builds where no wheel is given, and tries each pair."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", nargs="+", default=[sys.executable], metavar="PYTHON")
    parser.add_argument("--torch", nargs="+", default=[""], metavar="VERSION")
    parser.add_argument("--wheel", type=Path, help="leave out building and its checks")
    parser.add_argument("--page", type=Path, default=PAGE, help="table to add to")
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="release_check_") as folder:
        wheel = args.wheel.resolve() if args.wheel else build(Path(folder))
        good = True
        for python in args.python:
            for torch in args.torch:
                row = tried(python, torch, wheel, Path(folder, f"{Path(python).name}-{torch}"))
                add_row(args.page, row)
                good = good and row[-2] == "all"
    return 0 if good else 1


def build(folder: Path) -> Path:
    """Source distribution, and the wheel that it makes, in dist/; twine and check-wheel-contents agree."""
    print("==> building, twine check, check-wheel-contents", flush=True)
    tools = environment(sys.executable, folder / "tools")
    call(
        [tools, "-m", "pip", "install", "--quiet", "build", "twine", "check-wheel-contents"], folder
    )
    for old in (ROOT / "dist").glob("rmae_d2-*"):
        old.unlink()
    call([tools, "-m", "build", "--outdir", str(ROOT / "dist"), str(ROOT)], folder, quiet=True)
    made = sorted((ROOT / "dist").glob("rmae_d2-*"))
    call([tools, "-m", "twine", "check", "--strict", *map(str, made)], folder)
    (wheel,) = (path for path in made if path.suffix == ".whl")
    # W002: the licence is there twice, for the package itself and for the Detectron2 that it packs.
    call(
        [str(Path(tools).with_name("check-wheel-contents")), "--ignore", "W002", str(wheel)], folder
    )
    return wheel


def tried(python: str, torch: str, wheel: Path, folder: Path) -> list[str]:
    """A row of the table: versions, "all" or what failed, and the date."""
    print(f"==> {python}, torch {torch or 'as pip chooses it'}", flush=True)
    own = environment(python, folder)
    failed = ""
    try:
        wanted = [f"torch=={torch}"] if torch else []
        call([own, "-m", "pip", "install", "--quiet", *wanted, "torchvision", str(wheel)], folder)
        program = str(Path(own).with_name("rmae-d2"))
        call([program, "install-detectron2"], folder)
        for command in COMMANDS:
            call([program, *command], folder / "empty")
    except subprocess.CalledProcessError as error:
        failed = " ".join(Path(word).name for word in error.cmd[:3])
        print(f"==> failed: {failed}", flush=True)
    return [*versions_of(own), f"failed: {failed}" if failed else "all", date.today().isoformat()]


def environment(python: str, folder: Path) -> str:
    """An empty environment and an empty folder in it; its interpreter."""
    call([python, "-m", "venv", str(folder)], None)
    (folder / "empty").mkdir()
    return str(folder / "bin/python")


def versions_of(python: str) -> Iterator[str]:
    """Of Python and of the packages that the table shows."""
    program = (
        "import importlib.metadata as m, platform, sys\n"
        "print(platform.python_version())\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(m.version(name))\n"
        "    except m.PackageNotFoundError: print('-')\n"
    )
    run = subprocess.run(
        [python, "-c", program, *SHOWN], capture_output=True, text=True, check=True
    )
    yield from run.stdout.split()


def call(command: Sequence[str], folder: Path | None, quiet: bool = False) -> None:
    """Runs a command where nothing of this checkout is found; CalledProcessError where it fails.

    Quietly, what it prints is shown only then.
    """
    print(f"$ {' '.join(Path(w).name if '/' in w[:1] else w for w in command)}", flush=True)
    nothing = ("PYTHONPATH", "PYTHONHOME", "DETECTRON2_DATASETS", "VIRTUAL_ENV", "PIP_CONSTRAINT")
    env = {k: v for k, v in os.environ.items() if k not in nothing} | {"CUDA_VISIBLE_DEVICES": ""}
    pipe = subprocess.PIPE if quiet else None
    done = subprocess.run(
        command,
        cwd=folder,
        env=env,
        text=True,
        stdout=pipe,
        stderr=subprocess.STDOUT if quiet else None,
    )
    if done.returncode:
        print(done.stdout or "", end="", flush=True)
        done.check_returncode()


def add_row(page: Path, row: Sequence[str]) -> None:
    """Puts a row in place of that of the same Python and torch, to two numbers, and sorts."""
    rows = {key_of(row): row}
    if page.exists():
        for line in page.read_text(encoding="utf-8").splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if re.match(r"\| \d", line) and key_of(cells) not in rows:
                rows[key_of(cells)] = cells
    lines = [f"| {' | '.join(rows[key])} |\n" for key in sorted(rows)]
    page.write_text(HEAD + "".join(lines), encoding="utf-8")


def key_of(row: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Numbers of the versions of Python and torch, that sort as versions do."""
    return tuple(tuple(map(int, re.findall(r"\d+", cell)[:2])) for cell in row[:2])


if __name__ == "__main__":
    sys.exit(main())
