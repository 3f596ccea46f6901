"""k-NN while pre-training, on a small labelled folder, through the command line's main()."""

import pytest
import torch
from PIL import Image

from rmae_d2.config import get_config
from rmae_d2.errors import UserError
from tests.helpers import records

STEPS = ("train.max_iter=4", "train.checkpointer.period=2")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Dark and bright crops of two photographs."""
    from skimage import data

    root = tmp_path_factory.mktemp("labelled")
    for split, start, count in (("train", 0, 6), ("val", 120, 3)):
        for name, photo in (("dark", data.rocket()), ("bright", data.coffee())):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                place = start + 10 * i
                crop = photo[place : place + 80, place : place + 100]
                Image.fromarray(crop).save(root / split / name / f"{i}.jpg")
    return root


def knn(root, period=2, workers=0):
    loader = "dataloader.knn.loader"
    return (
        f"dataloader.knn.period={period}",
        f"{loader}.dataset.root={root}",
        f"{loader}.num_workers={workers}",
        f"{loader}.batch_size=4",
    )


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_training_does_not_notice(runs, labelled, tmp_path, assert_same_runs, workers):
    results = runs.train(tmp_path / "with", *STEPS, *knn(labelled, workers=workers))
    assert runs.train(tmp_path / "without", *STEPS) == {}
    assert_same_runs(tmp_path / "with", tmp_path / "without")
    found = {r["iteration"]: r["knn/top1"] for r in records(tmp_path / "with") if "knn/top1" in r}
    assert list(found) == [1, 4]  # as Detectron2 counts: the last is after training
    assert found[4] == results["knn"]["top1"] and found[4] >= 90  # brightness alone tells them
    assert not any("knn/top1" in r for r in records(tmp_path / "without"))


def test_it_adds_to_other_evaluation(runs, labelled, tmp_path):
    out = tmp_path / "run"
    results = runs.train(out, *STEPS, *knn(labelled, period=3), "train.eval_period=4")
    assert set(results) == {"knn", "reconstruction"}
    assert [r["iteration"] for r in records(out) if "knn/top1" in r] == [2, 4]


def test_the_config_that_it_saves_trains_again(runs, labelled, tmp_path):
    out = tmp_path / "run"
    runs.train(out, *STEPS, *knn(labelled))
    runs.train(tmp_path / "again", config=out / "config.yaml", tiny=False)
    first, again = (
        torch.load(x / "model_final.pth", weights_only=True)["model"]
        for x in (out, tmp_path / "again")
    )
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_bad_folder_stops_the_run_before_it_begins(runs, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(UserError, match=f"no labelled images in {tmp_path}/nowhere"):
        runs.train(out, *STEPS, *knn(tmp_path / "nowhere"))
    assert not (out / "config.yaml").exists() and not list(out.glob("*.pth"))


def test_recipes_do_not_ask_for_it():
    for name in ("rmae_vitb", "mae_vitb", "rmae_vitb_imagenet"):
        assert get_config(f"pretrain/{name}.py").dataloader.knn.period == 0


def test_period_of_none(runs, tmp_path):
    """Off, the folder need not be there."""
    runs.train(tmp_path / "run", "train.max_iter=1", *knn(tmp_path / "nowhere", period=0))
