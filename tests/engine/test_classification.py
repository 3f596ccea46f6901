"""Classification from the command line's main(): probes, fine-tuning and k-NN on small real runs."""

from functools import partial

import pytest
import torch
from PIL import Image

from rmae_d2.config import config_root
from rmae_d2.errors import CheckpointError
from tests.helpers import events, records
from tests.releases import registered_at, write_cars, write_cub, write_inaturalist

CONFIGS = config_root() / "imagenet"
LINEAR, FINETUNE, KNN = (CONFIGS / f"{name}_vitb.py" for name in ("linear", "finetune", "knn"))


# LARS moves weights by a share of their own norm: in 30 steps of the recipe's by next to nothing.
FAST = ("optimizer.base_lr=6.4", "optimizer.trust_coefficient=0.5")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Dark and bright crops of two photographs, 12 for training and 6 for testing of each."""
    from skimage import data

    root = tmp_path_factory.mktemp("classes")
    for split, start, count in (("train", 0, 12), ("val", 120, 6)):
        for name, photo in (("dark", data.rocket()), ("bright", data.coffee())):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                place = start + 10 * i
                crop = photo[place : place + 80, place : place + 100]
                Image.fromarray(crop).save(root / split / name / f"{i}.jpg")
    return root


@pytest.fixture(scope="module")
def pretrained(runs, tmp_path_factory):
    """A short pre-training of the same small encoder."""
    out = tmp_path_factory.mktemp("pretrained") / "run"
    runs.train(out, "train.max_iter=4")
    return out / "model_final.pth"


def options(root, steps=30, model=True):
    """The recipe on few small images, the last step of which is evaluated."""
    common = [
        f"dataloader.train.dataset.root={root}",
        f"train.max_iter={steps}",
        f"train.eval_period={steps}",
        "train.device=cpu",
        "train.precision=fp32",
        "train.log_period=1",
        "train.checkpointer.period=10",
        "dataloader.train.total_batch_size=8",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "model.backbone.net.img_size=32",
        "model.backbone.net.patch_size=8",
        "model.backbone.net.embed_dim=32",
        "model.backbone.net.depth=2",
        "model.backbone.net.num_heads=4",
    ]
    return [*common, "model.num_classes=2"] if model else common


def losses(out):
    return {r["iteration"]: r["loss_cls"] for r in records(out) if "loss_cls" in r}


def encoder(path):
    state = torch.load(path, weights_only=True)["model"]
    return {k: v for k, v in state.items() if k.startswith("backbone.net.")}


@pytest.fixture(scope="module")
def probed(runs, photos, pretrained, tmp_path_factory):
    out = tmp_path_factory.mktemp("probed") / "run"
    weights = f"train.init_checkpoint={pretrained}"
    return out, runs.train(out, *options(photos), weights, *FAST, config=LINEAR, tiny=False)


def test_linear_probe(probed, pretrained):
    """What was frozen is as it was, to the bit; what was learnt sorts unseen crops."""
    out, results = probed
    assert results["classification"]["top1"] >= 90
    values = losses(out)
    assert len(values) == 30 and values[29] < 0.8 * values[0]
    before, after = encoder(pretrained), encoder(out / "model_final.pth")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    log = (out / "log.txt").read_text()
    assert "recognised as rmae_d2" in log and "actual 0.2 for batches of 8" in log
    (setup,) = events(out, "setup")
    assert (setup["model"], setup["images"]) == ("Classifier", 24) and setup["parameters"] < 50_000


def test_evaluation_of_a_probe(probed, runs, photos, tmp_path):
    out, results = probed
    weights = f"train.init_checkpoint={out / 'model_final.pth'}"
    again = runs.train(
        *(tmp_path / "run", *options(photos), weights),
        config=LINEAR,
        tiny=False,
        eval_only=True,
    )
    assert again["classification"] == pytest.approx(results["classification"])


def test_a_probe_resumes_bit_for_bit(probed, runs, photos, pretrained, tmp_path, assert_same):
    out = tmp_path / "run"
    common = (*options(photos), f"train.init_checkpoint={pretrained}", *FAST)
    runs.train(out, *common, config=LINEAR, tiny=False)
    for name in ("model_final.pth", "model_0000029.pth"):
        (out / name).unlink(missing_ok=True)
    (out / "last_checkpoint").write_text("model_0000019.pth")
    runs.train(out, *common, config=LINEAR, tiny=False, resume=True)
    a, b = (torch.load(x / "model_final.pth", weights_only=True) for x in (probed[0], out))
    assert_same(a, b)


def test_finetuning(runs, photos, pretrained, tmp_path):
    """With RandAugment, erasing, mixup and cutmix, drop path and layer decay, as the recipe has them."""
    out = tmp_path / "run"
    results = runs.train(
        *(out, *options(photos, steps=40), f"train.init_checkpoint={pretrained}"),
        "optimizer.base_lr=0.1",
        config=FINETUNE,
        tiny=False,
    )
    assert results["classification"]["top1"] >= 90
    values = losses(out)
    assert len(values) == 40 and values[0] == pytest.approx(0.693, abs=0.01)
    state = torch.load(out / "model_final.pth", weights_only=True)
    before, after = encoder(pretrained), encoder(out / "model_final.pth")
    assert before.keys() - after.keys() == {f"backbone.net.norm.{x}" for x in ("weight", "bias")}
    assert all(not torch.equal(before[name], after[name]) for name in after)
    # The fewer layers below, the smaller the step: embeddings 0.65^3 of the head's rate.
    groups = state["trainer"]["optimizer"]["param_groups"]
    rates = sorted({round(group["lr"] / max(g["lr"] for g in groups), 6) for group in groups})
    assert rates == pytest.approx([0.65**3, 0.65**2, 0.65, 1.0], abs=1e-5)
    assert {group["weight_decay"] for group in groups} == {0.0, 0.05}


def test_knn_of_pretraining(runs, photos, pretrained, tmp_path):
    """--eval-only, on two splits, and on a folder of class folders alone."""
    few = [o for o in options(photos, model=False) if not o.startswith("dataloader.train")]
    few += [f"train.init_checkpoint={pretrained}"]
    run = {"config": KNN, "tiny": False, "eval_only": True}
    data = "dataloader.test.dataset"
    results = runs.train(tmp_path / "a", *few, f"{data}.root={photos}", **run)
    assert results["knn"]["top1"] >= 90
    alone = [f"{data}.root={photos}/val", f"{data}.bank_split=", f"{data}.query_split=null"]
    assert runs.train(tmp_path / "b", *few, *alone, **run)["knn"]["top1"] >= 80


def test_missing_weights_and_wrong_classes(runs, photos, tmp_path):
    common = options(photos)
    with pytest.raises(CheckpointError, match="rmae_vitb_imagenet/model_final.pth: no such weight"):
        runs.train(tmp_path / "a", *common, config=LINEAR, tiny=False)
    with pytest.raises(ValueError, match="num_classes=5 contradicts .*train, which has 2 classes"):
        runs.train(tmp_path / "b", *common, "model.num_classes=5", config=LINEAR, tiny=False)


def test_real_imagenet_photos(runs, shared_data, pretrained, tmp_path):
    """Photos as they come, one per class: what is fitted is known afterwards."""
    root = shared_data / "imagenet"
    if not (root / "train").is_dir():
        pytest.skip("no imagenet folder")
    classes = len([x for x in (root / "train").iterdir() if x.is_dir()])
    results = runs.train(
        *(tmp_path / "run", *options(root, steps=16)),
        f"model.num_classes={classes}",
        f"train.init_checkpoint={pretrained}",
        "dataloader.test.dataset.split=train",
        "dataloader.train.total_batch_size=24",
        *FAST,
        "dataloader.train.mapper.augmentations.0.scale=[0.8,1.0]",
        config=LINEAR,
        tiny=False,
    )
    found = results["classification"]
    assert found["top1"] > 3 * 100 / classes and found["top5"] > found["top1"]


@pytest.mark.slow
def test_two_processes(probed, runs, photos, pretrained, tmp_path):
    """The same accuracies as one; DDP trains both modes, for which each parameter needs a gradient."""
    out, results = probed
    train, test = options(photos, steps=3), [f"dataloader.test.dataset.root={photos}"]
    few = [o for o in options(photos, model=False) if not o.startswith("dataloader.train")]

    def scenario(name, config, eval_only, weights, *opts):
        opts = [*opts, f"train.output_dir={tmp_path / name}", f"train.init_checkpoint={weights}"]
        return name, config, opts, {"eval_only": eval_only}

    scenarios = [
        scenario("evaluate", LINEAR, True, out / "model_final.pth", *train),
        scenario("knn", KNN, True, pretrained, *few, *test),
        scenario("linear", LINEAR, False, pretrained, *train),
        scenario("finetune", FINETUNE, False, pretrained, *train),
    ]
    found = {name: results for name, (results, _) in runs.pair(tmp_path, scenarios).items()}
    assert found["evaluate"]["classification"] == pytest.approx(results["classification"])
    alone = runs.train(
        *(tmp_path / "alone", *few, *test, f"train.init_checkpoint={pretrained}"),
        config=KNN,
        tiny=False,
        eval_only=True,
    )
    assert found["knn"]["knn"] == pytest.approx(alone["knn"])
    for name in ("linear", "finetune"):
        assert len(losses(tmp_path / name)) == 3
        assert {"top1"} == found[name]["classification"].keys()


@pytest.mark.parametrize(
    ("config", "write", "name", "images"),
    [
        ("cub", write_cub, "cub_200_test", 6),
        ("cars", write_cars, "stanford_cars_test", 5),
        ("inat2017", partial(write_inaturalist, year=2017), "inaturalist_2017_val", 6),
    ],
)
def test_fine_grained_recipes_train(runs, tmp_path, config, write, name, images):
    """Two steps and an evaluation on the release in small, its number of classes found."""
    write(tmp_path)
    recipe = config_root() / "finegrained" / f"{config}.py"
    small = [x for x in options("", steps=2, model=False) if "root=" not in x]
    out = tmp_path / "run"
    with registered_at(tmp_path):
        results = runs.train(out, *small, "train.init_checkpoint=", config=recipe, tiny=False)
    assert len(losses(out)) == 2 and 0 <= results["classification"]["top1"] <= 100
    (setup,) = events(out, "setup")
    assert setup["images"] == images
    log = (out / "log.txt").read_text()
    assert f"evaluation on {name} after iteration 2" in log and "-> 3, the classes of " in log
