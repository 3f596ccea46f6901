"""A reader types every command block of README and docs, page by page and in order, and all of them work.

What the reader has (photos, labels, weights, the data sets) is small and real; `small_program.py` makes each
command small; `NOT_RUN` are the lines that nobody types here, with the reason. Python blocks run too, and
what a page shows after a block has to be what the program prints but for numbers, paths and names.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch

from rmae_d2.checkpoint import convert
from tests.annotations.formats.helpers import text
from tests.annotations.formats.test_voc import box, xml
from tests.helpers import HUNG, ROOT, coco_rectangle, save_run, write_photos
from tests.servers import S3_KEYS
from tests.small_program import overrides

pytestmark = pytest.mark.slow

#: A fenced block, or a command that stands indented.
BLOCK = re.compile(
    r"^```(?P<kind>\w*)\n(?P<fenced>.*?)^```$"
    r"|^    (?P<line>(?:\$ )?(?:\w+=\S+ )?rmae-d2 (?:[^\n]*\\\n)*[^\n]*\n)"
    r"(?P<shown>\n?(?:    (?!\$ |rmae-d2 )[^\n]+\n)*)",
    re.DOTALL | re.MULTILINE,
)
#: Beginnings of lines that are not run, and why.
NOT_RUN = {
    "make demo": "installs this checkout and its packages from the network, then runs what the pages run",
    "source .venv": "the environment of `make demo`",
    "pip install ": "installs packages from the network; CI's own installation is this",
    "rmae-d2 benchmark gpu": "needs a GPU; tests/commands/test_benchmark_gpu.py rehearses all of it",
    "rmae-d2 install-detectron2": "downloads a wheel; tests/commands/test_install_detectron2.py runs it",
}
#: What stands for what a reader has; patterns are searched in shell and Python alike.
STAND_INS = {
    r"(?<![\w/.])/(photos|labelled|new|set|data/set|sentinel|landcover|VOCdevkit)\b": r"{home}/\1",
    r"\bPHOTOS\b": "{home}/photos",
    # The first of a loop, and the shards that there are.
    r"for s in 1 2 3": "for s in 1",
    r"for arch in small base large huge": "for arch in small",
    r"\{00000\.\.00042\}": "00000",
    # Of the small ViT.
    r"out_indices=\[3, 6, 9, 12\]": "out_indices=[1, 2], num_hidden_layers=4,"
    " hidden_size=192, num_attention_heads=3",
}
#: What pages take for given: of another page, or names in Python.
GIVEN = {
    "detection": ("sh", "rm -r output/coco\n"),
    "pack": ("sh", "rmae-d2 regions --source fh --images /photos --output regions/photos\n"),
    "library": (
        "python",
        """
import numpy as np, torch
from rmae_d2.config import load_config
from rmae_d2.inference import Predictor
images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
detector = "output/coco/mask_rcnn_vitdet_b_100ep"
predictor = Predictor(load_config(f"{detector}/config.yaml"), f"{detector}/model_final.pth")
image = image_HWC_uint8 = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
images_BCHW = torch.randn(1, 3, 224, 224)
regions_BKHW = torch.rand(1, 8, 224, 224) > 0.5
""",
    ),
}
#: Shown outputs that are of other data than the reader's here.
SHOWN_OF_OTHER_DATA = {"labels: /data/set#val: YOLO"}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path):
    """(kind, text) of a page's blocks: ``sh``, ``python``, or ``""`` for what a command has printed."""
    found = []
    for match in BLOCK.finditer(page.read_text()):
        if match["fenced"] is not None:
            found.append((match["kind"].replace("text", ""), match["fenced"]))
        else:
            found.append(("sh", re.sub(r"^\s*(\$ )?", "", match["line"], flags=re.MULTILINE)))
            found.append(("", match["shown"]))
    return [(kind, content) for kind, content in found if content.strip()]


def commands(content: str):
    """The commands of a block of shell, each with its lines of continuation."""
    return re.findall(r"(?:[^\n]*\\\n)*[^\n]*\n", content)


def left_out(command: str):
    """The beginning in NOT_RUN, or None."""
    return next((start for start in NOT_RUN if command.startswith(start)), None)


COMMANDS = [
    command
    for page in PAGES
    for kind, content in blocks(page)
    if kind == "sh"
    for command in commands(content)
]
RUN = [page for page in PAGES if {"sh", "python"} & {kind for kind, _ in blocks(page)}]


def test_what_is_run():
    assert set(NOT_RUN) == {start for command in COMMANDS if (start := left_out(command))}
    assert sum("rmae-d2 " in command and not left_out(command) for command in COMMANDS) >= 65


# ---- what a reader has


def labels_of(folder: Path, number: int, **more):
    """COCO's json of a folder's photos, a rectangle of each of two categories in every photo."""
    names = sorted(path.name for path in folder.iterdir())
    images = [{"id": i, "file_name": n, "height": 48, "width": 60} for i, n in enumerate(names)]
    for image in images:
        # LVIS's, which others pass over.
        image |= {"coco_url": f"http://images.cocodataset.org/{folder.name}/{image['file_name']}"}
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    boxes = {1: [5, 5, 30, 30], 2: [30, 10, 20, 30]}
    annotations = [
        coco_rectangle(2 * image["id"] + c, image["id"], c, box)
        for image in images
        for c, box in boxes.items()
    ]
    categories = [{"id": c, "name": f"c{c}", "frequency": "f"} for c in range(1, number + 1)]
    return {"images": images, "annotations": annotations, "categories": categories, **more}


def write_yolo(folder: Path) -> None:
    """A YOLO data set with two splits."""
    for split in ("train", "val"):
        for path in write_photos(folder / "images" / split, 8, split).iterdir():
            label = folder / "labels" / split / f"{path.stem}.txt"
            text(label, "0 0.1 0.1 0.6 0.1 0.6 0.7\n1 0.5 0.3 0.9 0.3 0.9 0.9\n")
    text(folder / "data.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\n")


def write_data(home: Path) -> None:
    """Photos, own labels in several formats, TIFFs of seven bands, and the registered data sets."""
    import tifffile
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
    from PIL import Image
    from skimage import data

    from rmae_d2.data.scenes.dataset import write_scenes

    Image.fromarray(data.chelsea()).save(home / "photo.jpg")
    write_photos(home / "photos")
    write_photos(home / "new", 2)
    for name in ("labelled", "set", "data/set"):
        write_yolo(home / name)
    voc = home / "VOCdevkit/VOC2012"
    for path in write_photos(voc / "JPEGImages", 4).iterdir():
        text(
            voc / f"Annotations/{path.stem}.xml",
            xml(box("dog", (5, 5, 40, 40)), path.name, (48, 60)),
        )
    text(voc / "ImageSets/Main/val.txt", "photo00\nphoto01\n")
    random = np.random.default_rng(0)
    for i in range(4):
        bands = random.integers(0, 9000, (96, 96, 7), np.uint16)
        for name in ("sentinel", "landcover"):
            (home / name).mkdir(exist_ok=True)
        tifffile.imwrite(
            home / f"sentinel/{i}.tif", bands, photometric="minisblack", planarconfig="contig"
        )
        Image.fromarray(random.integers(0, 10, (96, 96), np.uint8)).save(
            home / f"landcover/{i}.png"
        )
    sets = home / "datasets"
    for split, folder in (("train", "training"), ("val", "validation")):
        own = write_photos(home / "images" / split, 6)
        (home / f"{split}.json").write_text(json.dumps(labels_of(own, 2)))
        photos = write_photos(sets / f"coco/{split}2017", 6)
        coco = labels_of(photos, 2) | {
            "categories": [
                {"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]
            ]
        }
        text(sets / f"coco/annotations/instances_{split}2017.json", json.dumps(coco))
        lvis = labels_of(photos, 1203)
        for image in lvis["images"]:
            del image["file_name"]  # as LVIS, which has the address alone
        text(sets / f"lvis/lvis_v1_{split}.json", json.dumps(lvis))
        for path in write_photos(sets / f"ADEChallengeData2016/images/{folder}", 4).iterdir():
            label = sets / f"ADEChallengeData2016/annotations/{folder}/{path.stem}.png"
            label.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 151, (48, 60), np.uint8)).save(label)
        for name in ("n01", "n02"):
            write_photos(sets / f"imagenet/{split}/{name}", 4)
    write_scenes(sets / "scenes", 12, 4)


def write_weights(home: Path, train) -> None:
    """Runs, one of them a real one, and the same weights under the names of other projects.

    Args:
        train: of `Runs`.
    """
    from safetensors.torch import save_file

    pretrained = home / "output/rmae_vitb"
    config = ROOT / "configs/pretrain/rmae_vitb.py"
    roots = [f"dataloader.{x}.dataset.root={home / 'photos'}" for x in ("train", "test")]
    train(pretrained, *overrides("pretrain/rmae_vitb.py"), *roots, config=config, tiny=False)
    weights = pretrained / "model_final.pth"
    for name in ("output/rmae", "output/rmae_vitb_imagenet", "output/demo/rmae_tiny_scenes"):
        shutil.copytree(pretrained, home / name)
    shutil.copy(weights, home)
    for name in ("coco/mask_rcnn_vitdet_b_100ep", "lvis/mask_rcnn_vitdet_b_100ep"):
        small = overrides(f"{name}.py")
        (home / "output" / name).mkdir(parents=True)
        save_run(home / "output" / name, *small, name=f"{name}.py", tiny=False)
    for name in ("output/x", "runs/detector", "elsewhere/mask_rcnn"):
        shutil.copytree(home / "output/coco/mask_rcnn_vitdet_b_100ep", home / name)
    for name in ("mae.pth", "mae_pretrain_vit_base.pth"):
        torch.save({"model": convert(str(weights), "mae").tensors}, home / name)
    timm = convert(str(weights), "timm").tensors
    moco = {f"module.base_encoder.{key}": value for key, value in timm.items()}
    torch.save({"state_dict": moco}, home / "mocov3.pth.tar")
    timm["patch_embed.proj.weight"] = timm["patch_embed.proj.weight"][..., :14, :14].clone()
    theirs = {
        "facebook/vit-mae-base": convert(str(weights), "huggingface").tensors,
        "timm/vit_small_patch14_dinov2.lvd142m": timm,
    }
    for name, state_dict in theirs.items():  # as huggingface_hub keeps what it has downloaded
        folder = home / "hub/hub" / f"models--{name.replace('/', '--')}"
        (folder / "snapshots/0").mkdir(parents=True)
        save_file(state_dict, str(folder / "snapshots/0/model.safetensors"))
        text(folder / "refs/main", "0")


@pytest.fixture(scope="module")
def home(runs, tmp_path_factory):
    """What a reader has before a page begins."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "docs", home / "docs")
    write_data(home)
    write_weights(home, runs.train)
    return home


# ---- what a reader does


@pytest.fixture
def reader(home, tmp_path):
    """Runs a block in the folder of a reader who has all that, and the program on PATH; what it printed."""
    here = tmp_path / "here"
    shutil.copytree(home, here, symlinks=True)
    program = tmp_path / "bin/rmae-d2"
    text(program, f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/tests/small_program.py" "$@"\n')
    program.chmod(0o755)
    env = {k: v for k, v in os.environ.items() if k not in ("DETECTRON2_DATASETS", "RMAE_D2_CACHE")}
    env |= {"PATH": f"{program.parent}:{env['PATH']}", "PYTHONPATH": str(ROOT)}
    env |= {"HF_HOME": str(here / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    env |= {
        "CUDA_VISIBLE_DEVICES": "",
        "MPLBACKEND": "agg",
        "RMAE_D2_CACHE": str(tmp_path / "cache"),
    }

    def run(kind: str, content: str) -> str:
        for pattern, mine in STAND_INS.items():
            content = re.sub(pattern, mine.replace("{home}", str(here)), content)
        line = ["bash", "-e", "-c"] if kind == "sh" else [sys.executable, "-c"]
        done = subprocess.run(
            [*line, content],
            cwd=here,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=HUNG,
        )
        assert done.returncode == 0, f"{content}\n{done.stdout[-6000:]}"
        return done.stdout

    run.env = env
    return run


def patterns_of(shown: str):
    """Of each line of an output in a page: words as they are, any numbers and paths, for dots whatever."""
    for line in re.split(r"\n(?! )", dedent(shown).strip()):  # an indented line goes on
        words = (re.escape(word).replace(r"\.\.\.", r"[\s\S]*") for word in line.split())
        free = r"\s+".join(r"\S+" if re.search(r"[\d/]", word) else word for word in words)
        yield free.replace(r"\s+[\s\S]*\s+", r"[\s\S]*")


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_a_page(page, reader, request):
    if page.stem == "remote":
        client = request.getfixturevalue("s3")
        client.create_bucket(Bucket="bucket")
        for path in request.getfixturevalue("home").glob("photos/*.jpg"):
            client.upload_file(str(path), "bucket", f"photos/{path.name}")
        reader.env |= {**S3_KEYS, "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"]}
    given = [GIVEN[page.stem]] if page.stem in GIVEN else []
    todo = [*given, *(block for block in blocks(page) if block[0])]
    printed = python = ""
    for (kind, content), (following, _) in pairwise([*todo, ("", "")]):
        if kind == "sh":
            printed += reader("sh", "".join(x for x in commands(content) if not left_out(x)))
        else:
            python += f"\n{content}"
            if following != "python":  # one session: all before again, where shell came between
                printed += reader("python", python)
    for kind, content in blocks(page):
        if not kind and f"{page.stem}: {content.splitlines()[0]}" not in SHOWN_OF_OTHER_DATA:
            for pattern in patterns_of(content):
                assert re.search(pattern, printed), f"{pattern}\n{printed[-6000:]}"
