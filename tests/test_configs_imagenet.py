"""The classification recipes against the numbers of MAE's tables 9 and 10."""

import copy

import pytest
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from PIL import Image

from rmae_d2.config import apply_overrides, get_config
from rmae_d2.solver import build_optimizer

NAMES = [f"imagenet/{mode}_vit{size}.py" for mode in ("linear", "finetune") for size in "bl"]
IMAGES = 1_281_167


def optimizer_of(cfg):
    """The optimizer of a small network with the recipe's depth."""
    cfg = copy.deepcopy(cfg)
    cfg.model.backbone.net.update(img_size=32, embed_dim=32, num_heads=4)
    model = instantiate(cfg.model)
    return build_optimizer(cfg.optimizer, model), {id(p): n for n, p in model.named_parameters()}


@pytest.mark.parametrize("size, width, depth", [("b", 768, 12), ("l", 1024, 24)])
def test_linear_probe(size, width, depth):
    cfg = get_config(f"imagenet/linear_vit{size}.py")
    net = cfg.model.backbone.net
    assert (net.embed_dim, net.depth, net.drop_path_rate) == (width, depth, 0.0)
    assert (cfg.model.mode, cfg.model.pool) == ("linear", "cls")
    assert cfg.train.max_iter == -(-90 * IMAGES // 16384)
    optimizer, names = optimizer_of(cfg)
    assert type(optimizer).__name__ == "Lars"
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(6.4) and group["weight_decay"] == 0
        assert (group["momentum"], group["trust_coeff"]) == (0.9, 0.001)
    assert [names[id(p)] for g in optimizer.param_groups for p in g["params"]] == [
        "head.1.weight",
        "head.1.bias",
    ]
    factor = instantiate(cfg.lr_multiplier)
    assert factor(5 / 90) == pytest.approx(0.5) and factor(50 / 90) == pytest.approx(0.5)
    assert factor(0.0) == 0 and factor(1.0) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "size, depth, lr, decay, drop_path, epochs",
    [("b", 12, 2e-3, 0.65, 0.1, 100), ("l", 24, 4e-3, 0.75, 0.2, 50)],
)
def test_finetuning(size, depth, lr, decay, drop_path, epochs):
    cfg = get_config(f"imagenet/finetune_vit{size}.py")
    model = cfg.model
    assert (model.backbone.net.depth, model.backbone.net.drop_path_rate) == (depth, drop_path)
    assert (model.mode, model.pool, model.label_smoothing) == ("finetune", "mean", 0.1)
    assert (model.mixup_alpha, model.cutmix_alpha, model.random_erasing) == (0.8, 1.0, 0.25)
    assert cfg.train.max_iter == -(-epochs * IMAGES // 1024)
    assert cfg.dataloader.train.mapper.augmentations[-1].policy == "rand-m9-mstd0.5-inc1"
    optimizer, names = optimizer_of(cfg)
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    found = {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert len(found) == len(names)
    layers = {"pos_embed": 0, "cls_token": 0, "patch_embed": 0}
    for name, (rate, weight_decay) in found.items():
        parts = name.removeprefix("backbone.net.").split(".")
        layer = int(parts[1]) + 1 if parts[0] == "blocks" else layers.get(parts[0], depth + 1)
        assert rate == pytest.approx(lr * decay ** (depth + 1 - layer)), name
        spared = parts[-1] == "bias" or "norm" in name or parts[0] in ("pos_embed", "cls_token")
        assert weight_decay == (0.0 if spared else 0.05), name
    factor = instantiate(cfg.lr_multiplier)
    assert factor(2.5 / epochs) == pytest.approx(0.5) and factor(1.0) * lr == pytest.approx(1e-6)


@pytest.mark.parametrize("percent", [1, 10])
def test_few_labels(percent):
    """As many epochs as with all labels; the linear probe's updates and rate too."""
    few, images = f"vitb_{percent}pct", IMAGES * percent / 100
    for mode, epochs, updates in (("finetune", 100, None), ("linear", 90, 7_038)):
        cfg = get_config(f"imagenet/{mode}_{few}.py")
        batch = cfg.dataloader.train.total_batch_size
        assert cfg.dataloader.train.dataset.fraction == percent / 100
        assert "fraction" not in cfg.dataloader.test.dataset
        assert cfg.train.max_iter == -(-epochs * images // batch)
        assert updates is None or cfg.train.max_iter == pytest.approx(updates, rel=0.03)
        whole = get_config(f"imagenet/{mode}_vitb.py")
        rates = [
            {(group["lr"], group["weight_decay"]) for group in optimizer_of(c)[0].param_groups}
            for c in (cfg, whole)
        ]
        assert rates[0] == rates[1]


@pytest.mark.parametrize(
    ("name", "data", "classes", "images", "batch"),
    [
        ("cub", "cub_200", 200, 5_994, 128),
        ("cars", "stanford_cars", 196, 8_144, 128),
        ("inat2017", "inaturalist_2017", 5_089, 579_184, 1024),
        ("inat2018", "inaturalist_2018", 8_142, 437_513, 1024),
        ("inat2019", "inaturalist_2019", 1_010, 265_213, 1024),
    ],
)
def test_fine_grained(name, data, classes, images, batch):
    """ImageNet's recipe, its epochs and its rate per image."""
    cfg, imagenet = get_config(f"finegrained/{name}.py"), get_config("imagenet/finetune_vitb.py")
    names = cfg.dataloader.train.dataset.names, cfg.dataloader.test.dataset.names
    assert names[0] == f"{data}_train" and names[1] in (f"{data}_test", f"{data}_val")
    assert all(part in DatasetCatalog for part in names)
    assert cfg.model.num_classes == classes and cfg.model.mode == "finetune"
    assert cfg.dataloader.train.total_batch_size == batch
    assert cfg.train.max_iter == -(-100 * images // batch)
    few, all_ = (max(g["lr"] for g in optimizer_of(c)[0].param_groups) for c in (cfg, imagenet))
    assert few / batch == pytest.approx(all_ / 1024)
    assert instantiate(cfg.lr_multiplier)(1.0) * few == pytest.approx(1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_rate_follows_the_batch(name):
    changes = ["optimizer.base_lr=2e-3", "dataloader.train.total_batch_size=512"]
    optimizer, _ = optimizer_of(apply_overrides(get_config(name), changes))
    assert max(group["lr"] for group in optimizer.param_groups) == pytest.approx(4e-3)


def test_evaluation_is_on_the_same_data_and_the_middle():
    cfg = apply_overrides(
        get_config("imagenet/linear_vitb.py"), ["dataloader.train.dataset.root=/photos"]
    )
    test = cfg.dataloader.test
    assert (test.dataset.root, test.dataset.split) == ("/photos", "val")
    crop = instantiate(test.mapper.augmentations[0])
    assert crop.size == (224, 224) and crop.crop_share == 224 / 256


@pytest.mark.parametrize("name", ["pretrain/rmae_vitb.py", "demo/rmae_tiny_scenes.py"])
def test_knn_joins_a_pretraining(name, tmp_path):
    """Any of its configs can take it in; without a period nothing is looked for."""
    for split in ("train", "val"):
        for label in ("a", "b"):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            Image.new("RGB", (300, 200)).save(folder / "x.png")
    cfg = get_config(name)
    cfg.dataloader.knn = get_config("common/data/knn.py").knn
    assert cfg.dataloader.knn.period == 0
    cfg = apply_overrides(
        cfg,
        [
            "dataloader.knn.period=100",
            f"dataloader.knn.loader.dataset.root={tmp_path}",
            "dataloader.knn.loader.num_workers=0",
        ],
    )
    knn = instantiate(cfg.dataloader.knn)
    assert (knn.period, knn.pool, knn.precision) == (100, "cls", cfg.train.precision)
    assert (knn.evaluator.k, knn.evaluator.temperature) == (20, 0.07)
    samples = next(iter(knn.loader))
    side = cfg.model.backbone.net.img_size
    assert [sample["bank"] for sample in samples] == [True, True, False, False]
    assert samples[0]["image"].shape == (3, side, side)
