"""Training from packed shards is training from files, bit for bit."""

import shutil

import pytest

from rmae_d2 import commands
from rmae_d2.data import images_from
from rmae_d2.data.loader import StreamDataset
from rmae_d2.data.scenes.dataset import write_scenes
from rmae_d2.packed import PackedImages
from tests.helpers import TINY, events

SHORT = [*TINY, "train.max_iter=3", "train.checkpointer.period=3", "train.eval_period=3"]
SHORT += ["dataloader.test.batch_size=4"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Images and regions: as files and a store; as one shard; as several."""
    folder = tmp_path_factory.mktemp("data")
    write_scenes(folder / "scenes", num_train=24, num_val=1, workers=1)
    photos, store = folder / "scenes/train", folder / "store"
    shutil.copytree(photos, photos / "again")  # sub-folders, and ids with slashes
    common = ["--workers", "0", "--output"]
    made = ["regions", "--source", "fh", "scales=[100,300]", "--images", str(photos)]
    assert commands.run([*made, *common, str(store)]) == 0
    for name, size in (("one", "1G"), ("several", "200K")):
        words = ["pack", str(photos), "--regions", str(store), "--max-bytes", size]
        assert commands.run([*words, *common, str(folder / name)]) == 0
    assert len(list((folder / "one").glob("*.tar"))) == 1
    assert len(list((folder / "several").glob("*.tar"))) > 3
    return photos, store, folder / "one", folder / "several"


def test_from_shards_as_from_files(sources, runs, tmp_path, assert_same_runs):
    photos, store, one, several = sources
    names, results = ("files", "one", "several", "mixed"), []
    pairs = ((photos, store), (one, one), (several, several), (several, store))
    for name, (root, regions) in zip(names, pairs, strict=True):
        runs.train(
            tmp_path / name,
            *SHORT,
            f"dataloader.train.dataset.root={root}",
            f"dataloader.train.mapper.regions.path={regions}",
            f"dataloader.train.num_workers={2 if name == 'several' else 0}",
            tiny=False,
        )
        results.append([event["results"] for event in events(tmp_path / name, "evaluation")])
    for name in names[1:]:
        assert_same_runs(tmp_path / "files", tmp_path / name)
    steps = [[e["values"]["total_loss"] for e in events(tmp_path / n, "step")] for n in names]
    assert len(steps[0]) == 3 and len(set(map(tuple, steps))) == 1
    assert results[0] and all(result == results[0] for result in results)


def test_the_loader_asks_for_items_and_keeps_none(sources):
    images = images_from(sources[3])
    assert isinstance(images, PackedImages)
    stream = StreamDataset(images, dict, seed=3)
    listed = StreamDataset(list(images_from(sources[0])), dict, seed=3)
    assert stream._dataset is images and stream.num_images == listed.num_images == 48
    for position in range(100):
        assert stream[position]["image_id"] == listed[position]["image_id"]
