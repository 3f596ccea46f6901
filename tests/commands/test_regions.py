"""rmae-d2 regions: what users type, what they see, and what survives kill -9 and ctrl-C."""

import contextlib
import fcntl
import json
import os
import pty
import random
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmae_d2 import commands
from rmae_d2.commands.regions import parse_source
from rmae_d2.data import pretrain_dataset, read_image
from rmae_d2.errors import StoreError, UserError
from rmae_d2.regions import FelzenszwalbSource, RegionRecord, RegionStore, StoredRegions
from rmae_d2.regions.jobs.manifest import MANIFEST, load_manifest
from tests.helpers import wait_for
from tests.regions.tiny_sams import write_sam

ROOT = Path(__file__).resolve().parents[2]
TOOL = [sys.executable, "-m", "rmae_d2", "regions"]

# Much as the documentation's own source, with a pause that leaves time to kill it; takes an hour for each
# image from HOLD on.
SOURCE = """
import os
import time

import numpy as np
from rmae_d2.regions import RegionRecord
from skimage.segmentation import slic

class Slic:
    def __init__(self, segments=20):
        self.params = {"source": "slic", "segments": segments}

    def __call__(self, dataset_dict, image_HWC):
        held = os.path.basename(dataset_dict["file_name"]) >= os.environ.get("HOLD", "x")
        time.sleep(3600 if held else float(os.environ.get("PAUSE", 0)))
        labels = slic(image_HWC, n_segments=self.params["segments"], start_label=0)
        return RegionRecord.from_labels(labels, params=self.params)
"""


def write_photos(folder, number):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(number):
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 48)).save(folder / f"{i:03}.png")
    return folder


@pytest.fixture
def photos(tmp_path):
    """Seven images of 64x48."""
    return write_photos(tmp_path / "photos", 7)


@pytest.fixture
def slic(tmp_path):
    """An own source as users name it."""
    path = tmp_path / "slic_source.py"
    path.write_text(SOURCE)
    return f"{path}:Slic"


def main(words):
    return commands.run(["regions", *words])


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def fh(photos, output, *more):
    """A command line for Felzenszwalb regions in this process."""
    options = ["--images-per-shard", "3", "--workers", "0", "scales=[20]"]
    return ["--source", "fh", "--images", str(photos), "--output", str(output), *options, *more]


# ---------------------------------------------------------------------------- what users type


def test_shards_follow_the_workers(photos, tmp_path):
    def shards(name, *options):
        words = ["--source", "fh", "--images", str(photos), "--output", str(tmp_path / name)]
        assert main([*words, *options, "scales=[20]"]) == 0
        return len(list((tmp_path / name).glob("*.tar"))), load_manifest(tmp_path / name).num_shards

    assert shards("one", "--workers", "0") == (1, 1)
    assert shards("three", "--workers", "3") == (3, 3)
    assert shards("three", "--workers", "0") == (3, 3)  # a store keeps what it began with
    # Tasks of an array agree without knowing of each other.
    array = ["--num-shards", "4", "--workers", "0", "--shard-index"]
    assert shards("array", *array, "3") == (1, 4) and shards("array", *array, "1") == (2, 4)


def test_makes_verifies_and_goes_on(photos, tmp_path, capsys):
    store = tmp_path / "store"
    assert main(fh(photos, store)) == 0
    assert "3 of 3 shards are there, the store is complete" in capsys.readouterr().out
    assert RegionStore(store).params == FelzenszwalbSource([20]).params
    before = contents(store)
    assert main(["--output", str(store), "--workers", "0", "--verify"]) == 0
    assert "every record" in capsys.readouterr().out
    (store / "regions-00001.tar").unlink()
    (store / "index.npy").unlink()
    assert main(["--output", str(store), "--workers", "0"]) == 0  # the manifest knows the rest
    assert contents(store) == before
    more = ["--source", "fh", "scales=[20]", "--workers", "0"]
    assert main(["--output", str(store), *more]) == 0


def test_images_as_list_and_as_json(photos, tmp_path):
    names = sorted(path.name for path in photos.iterdir())
    (photos / "list.txt").write_text("\n".join(names[:4]))
    images = [{"id": 10 + i, "file_name": name} for i, name in enumerate(names)]
    (photos / "coco.json").write_text(json.dumps({"images": images}))
    assert main(fh(photos / "list.txt", tmp_path / "list")) == 0
    assert list(RegionStore(tmp_path / "list").keys()) == names[:4]
    assert main(fh(photos / "coco.json", tmp_path / "json")) == 0
    assert list(RegionStore(tmp_path / "json").keys()) == [str(10 + i) for i in range(7)]
    assert load_manifest(tmp_path / "json").images[0] == (10, names[0])


def test_own_source_from_a_file(photos, slic, tmp_path):
    command = ["--source", slic, "--images", str(photos), "--output", str(tmp_path / "store")]
    assert main([*command, "--workers", "0", "segments=5"]) == 0
    assert RegionStore(tmp_path / "store").params == {"source": "slic", "segments": 5}


def test_own_source_of_the_docs(photos, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs/regions.md").read_text()
    (source,) = [part for part in page.split("```python\n")[1:] if "class Quickshift" in part]
    monkeypatch.chdir(tmp_path)
    Path("my_regions.py").write_text(source.split("```")[0])
    assert "`--source my_regions.py:Quickshift max_dist=20`" in page
    command = ["--source", "my_regions.py:Quickshift", "--images", str(photos), "--output", "store"]
    assert main([*command, "--workers", "0", "max_dist=20"]) == 0
    assert RegionStore("store").params == {"source": "quickshift", "max_dist": 20}


def test_frames_of_videos_keep_their_folders(tmp_path):
    """Frames of the same name are told apart, in the store and in what belongs to them."""
    names = ["clip1/0001.png", "clip1/0002.png", "clip2/0001.png", "clip2/cam/0001.png"]
    frames, found = tmp_path / "frames", []
    for size, name in enumerate(names, 2):
        (frames / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 24), (40 * size, 0, 0)).save(frames / name)
        box = [0, 0, size, size]
        found.append({"image_id": name.removesuffix(".png"), "score": 0.9, "bbox": box})
    (tmp_path / "results.json").write_text(json.dumps(found))
    store, common = tmp_path / "store", ["--images", str(frames), "--workers", "0"]
    command = ["--source", "detections", *common, "--output", str(store), "--images-per-shard", "2"]
    assert main([*command, f"json_file={tmp_path / 'results.json'}", "min_score=0.5"]) == 0
    assert list(RegionStore(store).keys()) == names
    regions = StoredRegions(store)
    for size, sample in enumerate(pretrain_dataset((), frames), 2):
        data = regions(sample, read_image(sample["file_name"])).data
        assert RegionRecord.from_bytes(data).regions().area.tolist() == [size * size]
    # The frames of one video, under its folder's names alone, are other images.
    with pytest.raises(StoreError, match=r"clip1/0002\.png has no regions in"):
        regions(*_frame(frames / "clip1/0002.png", "0002.png"))
    assert main(["--output", str(store), "--workers", "0", "--verify"]) == 0


def _frame(path, image_id):
    return {"file_name": str(path), "image_id": image_id}, read_image(path)


def test_sam_goes_on_where_it_stopped(photos, tmp_path, capsys):
    model, store = write_sam("sam2", tmp_path / "model"), tmp_path / "store"
    command = ["--source", "sam", "--images", str(photos), "--output", str(store)]
    settings = [f"model={model}", "device=cpu", "points_per_side=2", "pred_iou_thresh=0.0"]
    command += ["--images-per-shard", "3", *settings, "stability_score_thresh=0.0"]
    assert main([*command, "--workers", "2"]) == 0
    before = contents(store)
    assert len(RegionStore(store)) == 7
    for file in ("regions-00001.tar", "regions-00001.idx.npz", "index.npy"):
        (store / file).unlink()
    assert main([*command, "--workers", "0", "points_per_batch=3"]) == 0  # with less memory
    assert contents(store).keys() == before.keys()
    for name in before.keys() - {MANIFEST}:
        assert contents(store)[name] == before[name], name
    capsys.readouterr()
    assert main([*command[:-5], "model=sam_vit_h_4b8939.pth"]) == 1
    assert "model=facebook/sam-vit-huge has the same weights" in capsys.readouterr().err


def test_verify_takes_images_from_where_they_are_now(photos, tmp_path, capsys):
    store, moved = tmp_path / "store", tmp_path / "moved"
    assert main(fh(photos, store)) == 0
    photos.rename(moved)
    verify = ["--output", str(store), "--workers", "0", "--verify"]
    assert main(verify) == 1
    assert "7 problems in 3 shards" in capsys.readouterr().out
    assert main([*verify, "--images", str(moved)]) == 0
    assert main(fh(moved, store)) == 0


def test_verify_tells_how_to_repair(photos, tmp_path, capsys):
    store = tmp_path / "store"
    assert main(fh(photos, store)) == 0
    before = contents(store)
    tar = store / "regions-00001.tar"
    damaged = bytearray(tar.read_bytes())
    damaged[-1300] ^= 1
    tar.write_bytes(damaged)
    (store / "regions-00002.idx.npz").unlink()
    assert main(["--output", str(store), "--workers", "0", "--verify"]) == 1
    out = capsys.readouterr().out
    assert "regions-00001: 005.png" in out or "regions-00001.tar is damaged" in out
    assert "regions-00002.idx.npz is missing" in out and "regions-00000" not in out
    (remove, make) = [line.strip() for line in out.splitlines() if line.startswith("  ")]
    subprocess.run(remove, shell=True, check=True)
    assert make.startswith("rmae-d2 regions")
    assert main([*make.split()[2:], "--workers", "0"]) == 0
    assert contents(store) == before


def test_failures_are_told_and_too_many_are_an_error(photos, tmp_path, capsys):
    (photos / "001.png").write_bytes(b"")
    store = tmp_path / "store"
    assert main(fh(photos, store, "--max-failures", "0.5")) == 0
    out = capsys.readouterr().out
    assert f"{photos / '001.png'}: the file is empty" in out and "WARNING" not in out
    assert main(fh(photos, store)) == 1
    assert "WARNING: 1 OF 3 IMAGES OF regions-00000 FAILED" in capsys.readouterr().out
    (photos / "001.png").write_bytes((photos / "002.png").read_bytes())
    assert main(fh(photos, store, "--retry-failures")) == 0
    assert len(RegionStore(store)) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scals=[20]"], "scals: unknown key; did you mean scales?"),
        (["nothing=1"], "cache_dir, .*max_pixels, scales, sigma"),
        (["scales=20"], "scales: expected list"),
        (["sigma=high"], "sigma: expected float"),
        (["_target_=os.system"], "_target_: a source is named by --source"),
        (["scales"], "key=value"),
    ],
)
def test_arguments_of_the_source_are_checked(arguments, message):
    with pytest.raises(UserError, match=message):
        parse_source("fh", arguments)


def test_values_are_yaml():
    spec = parse_source("fh", ["scales=[500, 1000]", "sigma=1", "max_pixels=null"])
    assert spec.arguments == {"scales": [500, 1000], "sigma": 1.0, "max_pixels": None}
    assert spec.build().params["scales"] == [500, 1000]


def test_errors_are_one_message_and_exit_code_1(photos, tmp_path, capsys):
    store, used = tmp_path / "store", tmp_path / "used"
    assert main(fh(photos, used)) == 0
    (tmp_path / "file").write_text("no folder")
    capsys.readouterr()
    for command, message in [
        (["--output", str(store)], "--source NAME and --dataset NAME or --images PATH"),
        (["--output", str(store), "--verify"], "it is not a region store"),
        (["--output", str(used), "scales=[20]"], "need --source"),
        (fh(photos, used, "sigma=0.5"), "sigma=0.8 there, 0.5 here"),
        (fh(photos, used, "--images-per-shard", "2"), "3 images per shard there, 2 here"),
        (fh(photos, tmp_path / "file"), "file is a file, where a folder is needed"),
        (fh(tmp_path / "absent", store), "there is no .*absent"),
        (fh(photos, store, "--shard-index", "2", "--num-shards", "2"), "--shard-index 2"),
        (["--source", "hf", *fh(photos, store)[2:]], "no region source 'hf'"),
        (["--source", "fh", "--dataset", "coco_2107_train", "--output", str(store)], "coco_2017"),
    ]:
        assert main(command) == 1
        error = capsys.readouterr().err
        assert error.splitlines()[-1].startswith("error: ") or "\nerror: " in f"\n{error}"
        assert re.search(message, error), error
        assert "Traceback" not in error
    assert not store.exists() or set(contents(store)) <= {MANIFEST}


# ------------------------------------------------------------------------------ real processes


@pytest.fixture
def start():
    """Starts the tool in a process group of its own, as a shell would; none outlives the test."""
    groups = []

    def start(command, hold="x", pause=0, **options):
        environment = os.environ | {"HOLD": hold, "PAUSE": str(pause)}
        process = subprocess.Popen(
            [*TOOL, *command], start_new_session=True, cwd=ROOT, env=environment, **options
        )
        groups.append(process.pid)
        return process

    yield start
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def group_is_gone(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
def test_killed_four_times_and_resumed(tmp_path, slic, start):
    photos = write_photos(tmp_path / "many", 36)
    store, expected = tmp_path / "store", tmp_path / "expected"
    common = ["--source", slic, "--images", str(photos), "--images-per-shard", "3"]
    assert main([*common, "--output", str(expected), "--workers", "0"]) == 0
    command = [*common, "--output", str(store), "--workers"]
    rng = random.Random(0)
    made = []
    for turn in range(4):
        before = set(store.glob("regions-*.tmp"))
        process = start(
            [*command, "0" if turn == 1 else "2"],
            hold=f"{7 * turn + 5:03}.png",
            pause=0.1,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(
            lambda b=before, p=process: set(store.glob("regions-*.tmp")) - b or p.poll() is not None
        )
        time.sleep(rng.uniform(0, 0.7))  # any moment will do
        if turn % 2:
            os.killpg(process.pid, signal.SIGKILL)  # as when the machine goes down
        else:
            process.kill()  # the workers must notice by themselves
        process.wait()
        wait_for(lambda p=process: group_is_gone(p.pid))
        made.append(len(list(store.glob("*.idx.npz"))))
    print("shards there after each kill, of 12:", made)
    assert made == sorted(made) and made[-1] < 12
    result = subprocess.run([*TOOL, *command, "2"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert contents(store) == contents(expected)
    assert main(["--output", str(store), "--verify", "--workers", "0"]) == 0


def test_ctrl_c_leaves_whole_shards_and_no_process(tmp_path, photos, slic, start):
    store = tmp_path / "store"
    command = ["--source", slic, "--images", str(photos), "--output", str(store)]
    command += ["--images-per-shard", "1", "--workers", "2"]
    process = start(command, "003.png", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(
        lambda: len(list(store.glob("*.idx.npz"))) == 3 and len(list(store.glob("*.tmp"))) == 2
    )
    os.killpg(process.pid, signal.SIGINT)  # the terminal sends it to the whole group
    output, error = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "stopped" in error and "goes on" in error and "Traceback" not in error
    wait_for(lambda: group_is_gone(process.pid))
    assert not list(store.glob("*.tmp"))
    assert len(RegionStore(store)) == 3
    assert main(["--output", str(store), "--workers", "0"]) == 0
    assert len(RegionStore(store)) == 7


def test_sigterm_ends_it_too_and_a_terminal_sees_a_bar(tmp_path, photos, slic, start):
    store = tmp_path / "store"
    command = ["--source", slic, "--images", str(photos), "--output", str(store)]
    command += ["--images-per-shard", "1", "--workers", "0"]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    process = start(command, "003.png", stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    wait_for(lambda: len(list(store.glob("*.idx.npz"))) == 3)
    process.terminate()
    process.wait(timeout=600)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    process.stdout.close()
    assert process.returncode == 143
    assert "img/s" in shown or "s/img" in shown
    assert "3/7 [" in shown and "B/img, 0 failed" in shown
    assert not list(store.glob("*.tmp"))
