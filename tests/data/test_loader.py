"""The stream: every sample a function of (seed, position), whoever loads it."""

import itertools
import logging
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import traceback

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json
from detectron2.structures import Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rmae_d2.data.images import RandomResizedCrop
from rmae_d2.data.loader import (
    SkipCounter,
    StreamBatchSampler,
    StreamDataset,
    build_eval_loader,
    build_train_loader,
    prefetched,
    seeded,
)
from rmae_d2.data.mappers import RegionDatasetMapper
from rmae_d2.errors import AnnotationError, ImageReadError, UserError
from rmae_d2.modeling import Batch
from rmae_d2.regions import FelzenszwalbSource
from tests.helpers import HUNG


def draws(dataset_dict):
    """A mapper that shows all three generators."""
    return {
        "image_id": dataset_dict["image_id"],
        "draws": (random.random(), np.random.rand(), torch.rand(1).item()),
    }


def _dicts(count):
    return [{"image_id": i, "file_name": f"{i}.jpg"} for i in range(count)]


# --- positions


@given(st.integers(1, 40), st.integers(0, 2**40), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_every_epoch_shows_every_image_once(size, seed, epoch):
    stream = StreamDataset(_dicts(size), draws, seed)
    assert sorted(stream.index(epoch * size + i) for i in range(size)) == list(range(size))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(StreamDataset(_dicts(30), draws, seed).index(30 * epoch + i) for i in range(30))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_global_batches_do_not_depend_on_who_shares_them(world, accum, m, start):
    total = world * accum * m
    ranks = [iter(StreamBatchSampler(total, world, rank, accum, start)) for rank in range(world)]
    for step in range(start, start + 3):
        positions = [p for _ in range(accum) for rank in ranks for p in next(rank)]
        assert positions == list(range(step * total, (step + 1) * total))


@given(st.integers(0, 20), st.integers(1, 3))
def test_restart_equals_going_on(start, accum):
    going_on = itertools.islice(iter(StreamBatchSampler(6, 1, 0, accum)), start * accum, None)
    restarted = iter(StreamBatchSampler(6, 1, 0, accum, start))
    for _ in range(5):
        assert next(going_on) == next(restarted)


def test_indivisible_batch_names_sizes_that_work():
    with pytest.raises(ValueError, match=r"total_batch_size=100 .* take 96 or 128"):
        StreamBatchSampler(100, 8, 0, 4)
    with pytest.raises(ValueError, match="take 8$"):
        StreamBatchSampler(3, 8)


# --- samples


@given(st.integers(0, 2**40), st.integers(0, 10**9))
@settings(max_examples=30, deadline=None)
def test_a_sample_is_a_function_of_seed_and_position(seed, position):
    stream, other = (StreamDataset(_dicts(7), draws, seed) for _ in range(2))
    other[position + 3]
    assert stream[position] == other[position] == other[position]
    assert stream[position]["draws"] != stream[position + 1]["draws"]


def test_loading_in_the_main_process_leaves_the_models_randomness_alone():
    def state():
        return random.random(), np.random.rand(), torch.rand(1).item()

    for workers in (0, 1):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        expected = state(), state()
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        seen = [state()]
        next(iter(build_train_loader(_dicts(5), draws, 2, num_workers=workers)))
        seen.append(state())
        assert tuple(seen) == expected


def test_seeded_is_stable():
    """The numbers that every run so far began with: a change here breaks --resume of old runs."""
    with seeded(0, 1, 2):
        assert random.randrange(10**6) == SEEDED[0]
        assert np.random.randint(10**6) == SEEDED[1]
        assert torch.randint(10**6, ()).item() == SEEDED[2]
    assert StreamDataset(_dicts(10), draws, 0).index(12) == SEEDED[3]


SEEDED = (228136, 222424, 310702, 6)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[:40, :60]
    for i in range(6):
        image = np.stack([x * 4, y * 6, (x * y * (i + 1)) % 256], -1).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
    return [{"file_name": str(folder / f"{i}.png"), "image_id": i} for i in range(6)]


def _region_mapper():
    return RegionDatasetMapper(
        augmentations=[RandomResizedCrop(32), T.RandomFlip()],
        regions=FelzenszwalbSource(scales=(50,)),
        num_regions=9,
    )


def _take(loader, count):
    return list(itertools.islice(loader, count))


def _assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert [list(sample) for sample in batch] == [list(sample) for sample in other]
        for sample, twin in zip(batch, other, strict=True):
            for key, value in sample.items():
                same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
                assert same(value, twin[key]), key


def test_workers_and_restarts_change_nothing(photos):
    options = {"mapper": _region_mapper(), "total_batch_size": 4, "seed": 5, "grad_accum": 2}
    alone = _take(build_train_loader(photos, num_workers=0, **options), 8)
    _assert_same(_take(build_train_loader(photos, num_workers=2, **options), 8), alone)
    resumed = build_train_loader(photos, num_workers=2, **options)
    _assert_same(_take(resumed.start(2), 4), alone[4:])
    other = build_train_loader(photos, num_workers=0, **{**options, "seed": 6})
    assert not torch.equal(_take(other, 1)[0][0]["image"], alone[0][0]["image"])


def test_a_mappers_collate_makes_the_batch_in_the_worker(photos):
    loader = build_train_loader(photos, _region_mapper(), 4, num_workers=1)
    (batch,) = _take(loader, 1)
    assert isinstance(batch, Batch) and batch.images.is_shared()
    assert len(batch) == 4 and batch.regions.shape == (4, 2, 32, 32)
    assert batch.mask_seeds.tolist() == [facts["mask_seed"] for facts in batch.facts]
    first = loader.preview(4)
    assert torch.equal(first.images, batch.images) and torch.equal(first.regions, batch.regions)
    assert isinstance(next(iter(build_eval_loader(photos, _region_mapper(), num_workers=0))), Batch)


def test_of_a_mapper_without_collate_a_batch_is_a_list(photos):
    (batch,) = _take(build_train_loader(photos, draws, 4, num_workers=1), 1)
    assert isinstance(batch, list) and all(isinstance(sample, dict) for sample in batch)


def test_config_lists_and_errors(photos):
    loader = build_train_loader(photos, draws, 4)
    assert (loader.dataset_size, loader.total_batch_size, loader.micro_batch_size) == (6, 4, 4)
    with pytest.raises(ValueError, match="empty"):
        build_train_loader([], draws, 4)
    with pytest.raises(ValueError, match="seed=-1"):
        build_train_loader(photos, draws, 4, seed=-1)


# --- bad images


@pytest.fixture
def mostly_good(photos, tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    Image.effect_noise((99, 99), 50).save(tmp_path / "cut.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    bad = [tmp_path / name for name in ("empty.jpg", "text.jpg", "cut.jpg", "absent.jpg")]
    return photos + [{"file_name": str(path), "image_id": path.name} for path in bad]


@pytest.mark.parametrize(
    "mapper",
    [
        RegionDatasetMapper(augmentations=[RandomResizedCrop(32)]),
        DatasetMapper(False, augmentations=[T.Resize((32, 32))], image_format="BGR"),
    ],
)
def test_bad_images_are_replaced_and_named(mostly_good, mapper, caplog):
    loader = build_train_loader(mostly_good, mapper, 10, num_workers=0)
    first = _take(loader, 1)
    _assert_same(_take(build_train_loader(mostly_good, mapper, 10, num_workers=2), 1), first)
    counter = SkipCounter(dataset_size=len(mostly_good))
    skipped = [skip for sample in first[0] for skip in sample.get("skipped", [])]
    with caplog.at_level(logging.WARNING):
        counter.add(first[0])
    assert {os.path.basename(file) for file, _ in skipped} == {
        *("empty.jpg", "text.jpg", "cut.jpg", "absent.jpg")
    }
    told = [r.getMessage() for r in caplog.records if r.name == "rmae_d2.data.loader"]
    assert counter.count == 4 and len(told) == 4 and "cut.jpg" in "".join(told)
    counter.add(first[0])
    assert counter.count == 4
    counter.check()


def test_all_bad_is_an_error(tmp_path):
    loader = build_train_loader(
        [{"file_name": str(tmp_path / "gone.jpg")}],
        RegionDatasetMapper(augmentations=[]),
        1,
        num_workers=1,
    )
    with pytest.raises(UserError, match="(?s)10 images.*gone.jpg: there is no such file"):
        _take(loader, 1)


def test_refusing_mapper_is_no_error():
    def odd_only(dataset_dict):
        return dataset_dict if dataset_dict["image_id"] % 2 else None

    batch = _take(build_train_loader(_dicts(8), odd_only, 8, num_workers=0), 1)[0]
    assert all(sample["image_id"] % 2 and "skipped" not in sample for sample in batch)
    with pytest.raises(UserError, match="refused"):
        StreamDataset(_dicts(8), lambda _: None, 0)[0]


@pytest.mark.parametrize("error", [MemoryError(), KeyError("width"), OSError(28, "disk full")])
def test_other_errors_are_not_hidden(error):
    with pytest.raises(type(error)):
        StreamDataset(_dicts(8), raises(error), 0)[0]


def test_too_many_bad_images_end_the_run():
    counter = SkipCounter(dataset_size=2000, limit_fraction=0.01, min_images=10)
    counter.add([{"skipped": [(f"{i}.jpg", "cut short")]} for i in range(20)])
    counter.check()
    counter.add([{"skipped": [("20.jpg", "cut short"), ("20.jpg", "cut short")]}])
    with pytest.raises(UserError, match=r"(?s)21 of 2000.*0.jpg: cut short") as caught:
        counter.check()
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


# --- evaluation


def test_evaluation_is_in_order_and_repeats_itself(photos):
    mapper = _region_mapper()
    once = list(build_eval_loader(photos, mapper, batch_size=4, num_workers=2))
    loader = build_eval_loader(photos, mapper, batch_size=4, num_workers=0)
    assert len(loader) == 2 and [len(batch) for batch in loader] == [4, 2]
    assert [sample["image_id"] for batch in once for sample in batch] == list(range(6))
    _assert_same(list(loader), once)
    seeds = [sample["mask_seed"] for batch in once for sample in batch]
    assert len(set(seeds)) == 6


def test_evaluation_leaves_nothing_out(tmp_path):
    mapper = RegionDatasetMapper(augmentations=[])
    with pytest.raises(Exception, match="no such file"):
        list(build_eval_loader([{"file_name": str(tmp_path / "gone.jpg")}], mapper, num_workers=1))


# --- processes

PROGRAM = """
import os, signal, sys, time
import torch.multiprocessing as mp
from rmae_d2.data.loader import build_train_loader, build_eval_loader

def mapper(dataset_dict):
    return dataset_dict

def mapper_that_fails(dataset_dict):
    raise RuntimeError("boom")

def spawned(rank, mode):
    main(mode)

def main(mode):
    stopped = []
    for name in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
        signal.signal(name, lambda number, frame: stopped.append(number))
    dicts = [{"image_id": i} for i in range(64)]
    if mode == "eval":
        batches = iter(build_eval_loader(dicts, mapper, num_workers=2))
    elif mode == "mapper-error":
        batches = iter(build_train_loader([{}], mapper_that_fails, 4, num_workers=2))
    else:
        batches = iter(build_train_loader(dicts, mapper, 4, num_workers=2))
    next(batches)
    print("ready", flush=True)
    if mode == "signal":
        while len(stopped) < 4:
            time.sleep(0.05)
        for _ in range(30):
            next(batches)
        print("saved", flush=True)
    globals()["kept_alive"] = batches
    if mode == "error":
        raise RuntimeError("boom")

if __name__ == "__main__":
    if sys.argv[1] == "spawn":
        mp.spawn(spawned, args=("plain",), nprocs=1)
    else:
        main(sys.argv[1])
"""


@pytest.mark.parametrize(
    "mode",
    ["plain", "mapper-error", "signal"]
    + [pytest.param(mode, marks=pytest.mark.slow) for mode in ("eval", "error", "spawn")],
)
def test_a_process_ends_with_its_workers(tmp_path, mode):
    """Workers outlive signals to the group, and never their main process."""
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        if mode == "signal":
            assert process.stdout.readline() == "ready\n"
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
                os.killpg(process.pid, number)
                time.sleep(0.1)
        out, err = process.communicate(timeout=HUNG)
        assert process.returncode == ("error" in mode), err
        assert "saved" in out or mode != "signal"
        assert "Traceback" not in err or "error" in mode, err
        assert _group_ends(process.pid)
    finally:
        if not _group_ends(process.pid, within=0):
            os.killpg(process.pid, signal.SIGKILL)


def _group_ends(group, within=HUNG):
    """Whether a process group becomes empty; multiprocessing's own helpers take a moment."""
    end = time.monotonic() + within
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.1)


def test_an_error_ends_the_workers_though_its_traceback_is_held():
    batches = iter(build_train_loader([{}], raises(ZeroDivisionError()), 1, num_workers=1))
    with pytest.raises(ZeroDivisionError) as kept:
        next(batches)
    assert kept.tb is not None and not multiprocessing.active_children()
    assert list(batches) == []


# --- errors in workers: the same error in the main process, and where it came from


class StubbornError(Exception):
    """Pickles, but does not come back."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def raises(error):
    def mapper(_):
        raise error

    return mapper


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("build", [build_train_loader, build_eval_loader])
def test_the_message_is_the_errors_own(build, workers):
    arguments = {} if build is build_eval_loader else {"total_batch_size": 1}
    mapper = raises(AnnotationError("labels/7.png has the label 200"))
    with pytest.raises(AnnotationError) as caught:
        next(iter(build([{}], mapper, num_workers=workers, **arguments)))
    assert str(caught.value) == "labels/7.png has the label 200"
    # Whoever looks for the place finds it.
    shown = "".join(traceback.format_exception(caught.value))
    assert "in mapper" in shown and shown.endswith(f"AnnotationError: {caught.value}\n")


def test_errors_of_several_arguments():
    mapper = raises(ImageReadError("7.jpg", "it is damaged"))
    with pytest.raises(ImageReadError) as caught:
        next(iter(build_eval_loader([{}], mapper, num_workers=1)))
    assert (caught.value.path, caught.value.reason) == ("7.jpg", "it is damaged")


def test_what_does_not_survive_the_way_is_told_by_pytorch():
    mapper = raises(StubbornError("no", "way"))
    with pytest.raises(RuntimeError, match="(?s)Caught StubbornError in DataLoader worker.*no way"):
        next(iter(build_eval_loader([{}], mapper, num_workers=1)))


# --- batches ahead, on a device

CPU = torch.device("cpu")


def numbered(count, log):
    for i in range(count):
        log.append(i)
        yield Batch.of([{"image": torch.full((2,), i), "file_name": f"{i}.jpg"}])


def test_order_and_one_ahead():
    log: list[int] = []
    batches = prefetched(numbered(4, log), CPU)
    assert not log  # workers start when the first batch is asked for
    for i in range(4):
        sample = next(batches)[0]
        assert sample["image"].tolist() == [i, i] and sample["file_name"] == f"{i}.jpg"
        assert log == list(range(min(i + 2, 4)))
    assert list(batches) == []


def six_fails(sample):
    if sample["number"] == 6:
        raise ZeroDivisionError("six")
    return {"image": torch.full((3, 2, 2), sample["number"]), "number": sample["number"]}


@pytest.mark.parametrize(
    ("device", "workers"),
    [
        ("cpu", 0),
        ("cpu", 2),
        pytest.param(
            *("cuda", 1),
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
            ],
        ),
    ],
)
def test_the_same_batches_ahead_and_on_the_device(device, workers):
    data = [{"number": number} for number in range(6)]
    device = torch.device(device, 0 if device == "cuda" else None)
    loader = build_train_loader(data, six_fails, 2, num_workers=workers, seed=1)
    plain, ahead = iter(loader.start(1)), iter(loader.start(1, device))
    for _ in range(7):
        a, b = next(plain), next(ahead)
        assert [x["number"] for x in a] == [x["number"] for x in b]
        images = torch.stack([x["image"] for x in b])
        assert images.device == device
        assert torch.equal(torch.stack([x["image"] for x in a]), images.cpu())


def test_a_workers_error_comes_at_its_batch():
    data = [{"number": number} for number in range(7)]
    loader = build_train_loader(data, six_fails, 1, num_workers=1, seed=0)
    position = next(p for p in range(7) if loader._stream.index(p) == 6)
    batches = iter(loader.start(0, CPU))
    for _ in range(position):
        next(batches)
    with pytest.raises(ZeroDivisionError, match="six"):
        next(batches)


# --- real photos


def test_detection_through_the_same_loader(shared_data):
    annotations = shared_data / "coco/annotations/instances_val2017.json"
    dicts = load_coco_json(str(annotations), str(shared_data / "coco/val2017"))
    mapper = DatasetMapper(
        True,
        augmentations=[T.RandomFlip(), T.ResizeScale(0.5, 2.0, 64, 64), T.FixedSizeCrop((64, 64))],
        image_format="RGB",
        use_instance_mask=True,
        recompute_boxes=True,
    )
    alone = _take(build_train_loader(dicts, mapper, 2, num_workers=0), 3)
    shared = _take(build_train_loader(dicts, mapper, 2, num_workers=2), 3)
    assert all(isinstance(sample["instances"], Instances) for batch in alone for sample in batch)
    for sample, twin in zip(itertools.chain(*alone), itertools.chain(*shared), strict=True):
        assert torch.equal(sample["image"], twin["image"])
        boxes, others = sample["instances"].gt_boxes.tensor, twin["instances"].gt_boxes.tensor
        assert torch.equal(boxes, others)
