"""Every config loads and builds; leaves are lab notes, have the published values, and take anybody's data."""

import ast
import functools
import json
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.registry import locate
from omegaconf import OmegaConf
from torch.overrides import TorchFunctionMode

from rmae_d2.config import apply_overrides, config_root, get_config, load_config, save_config
from rmae_d2.config.overrides import known_keys
from rmae_d2.modeling import RMAE
from rmae_d2.solver import build_optimizer

ROOT = config_root()
ALL = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
STUDIES = ["study/photos.py", "study/scenes.py", "study/scenes_gpu.py"]
LEAVES = [name for name in ALL if not name.startswith("common/") and name not in STUDIES]
PRETRAIN = [name for name in LEAVES if name.startswith("pretrain/")]
SELF_SUPERVISED = [*PRETRAIN, "demo/rmae_tiny_scenes.py", "demo/mae_tiny_scenes.py"]
FINETUNE = [name for name in LEAVES if name.startswith(("coco/", "lvis/"))]
IMAGENET = [name for name in LEAVES if name.startswith(("imagenet/", "finegrained/"))]
DETECTION = [*FINETUNE, "demo/vitdet_tiny_scenes.py", "demo/vitdet_tiny_coco.py"]


class RatesOnHost(TorchFunctionMode):
    """Detectron2's ViT reads its drop-path rates off a tensor, which a meta tensor does not let it."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        on_host = {"device": "cpu"} if function is torch.linspace else {}
        return function(*args, **{**(kwargs or {}), **on_host})


@functools.lru_cache
def build(name):
    """The model, without memory for its tensors."""
    with torch.device("meta"), RatesOnHost():
        return instantiate(get_config(name).model)


def shapes_of(name):
    return {key: value.shape for key, value in build(name).state_dict().items()}


def test_there_are_configs():
    assert len(PRETRAIN) >= 6 and len(LEAVES) > len(PRETRAIN)


@pytest.mark.parametrize("name", ALL)
def test_every_file_loads(name):
    assert len(get_config(name))


@pytest.mark.parametrize("name", LEAVES)
def test_every_leaf_builds_its_model(name):
    cfg = get_config(name)
    shapes = shapes_of(name)
    net = cfg.model.backbone.net
    if "stages" in net:  # Hiera: 12 per block, 2 more where a stage widens
        encoder = [key for key in shapes if key.startswith("backbone.net.hiera.blocks.")]
        assert len(encoder) == sum(net.stages) * 12 + 3 * 2
    else:
        encoder = [key for key in shapes if key.startswith("backbone.net.blocks.")]
        assert len(encoder) == net.depth * (14 if net.get("use_rel_pos") else 12)
    assert {"model", "optimizer", "lr_multiplier", "train", "dataloader"} <= set(cfg)
    train = get_config("common/train.py").train
    assert known_keys(train) == known_keys(cfg.train)


@pytest.mark.parametrize("name", [*PRETRAIN, *FINETUNE, *IMAGENET])
def test_recipe_headers_are_lab_notes(name):
    text = ast.get_docstring(ast.parse((ROOT / name).read_text()))
    for part in ("Command:", "Batch, GPUs:", "Published:", "Measured:"):
        assert part in text, part
    assert f"--config-file configs/{name}" in text
    assert Path(get_config(name).train.output_dir).parts[0] == "output"


def test_output_folders_differ():
    folders = {name: get_config(name).train.output_dir for name in LEAVES}
    assert len(set(folders.values())) == len(folders), folders


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    from PIL import Image
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        crop = data.chelsea()[60 * i : 60 * i + 120, 100:260]
        Image.fromarray(crop).save(folder / f"{i}.jpg")
    return folder


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_own_images_in_every_recipe(name, photos):
    cfg = apply_overrides(
        get_config(name),
        [
            f"dataloader.train.dataset.root={photos}",
            f"dataloader.test.dataset.root={photos}",
            f"train.output_dir={photos.parent / 'run'}",
            "dataloader.train.total_batch_size=2",
            "dataloader.train.num_workers=0",
            "dataloader.test.num_workers=0",
        ],
    )
    side = cfg.model.backbone.net.img_size
    for loader in (instantiate(cfg.dataloader.train), instantiate(cfg.dataloader.test)):
        sample = next(iter(loader))[0]
        assert sample["image"].shape == (3, side, side)
        assert sample["image"].dtype == torch.uint8 and sample["mask_seed"] >= 0
        if cfg.model.region_branch is None:
            assert "regions" not in sample
        else:
            assert sample["regions"].shape == (1, side, side) and sample["num_regions"] == 8
            assert sample["regions"].any()


@pytest.mark.parametrize("name", LEAVES)
def test_saved_configs_are_the_same(name, tmp_path):
    cfg = get_config(name)
    save_config(cfg, tmp_path / "config.yaml")
    again = load_config(tmp_path / "config.yaml")
    assert known_keys(again) == known_keys(cfg)
    save_config(again, tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "config.yaml").read_text()
    for section in ("optimizer", "lr_multiplier", "model"):
        target = OmegaConf.to_container(cfg)[section]["_target_"]
        assert locate(again[section]._target_) is (
            locate(target) if isinstance(target, str) else target
        )


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_the_rate_follows_the_batch(name):
    cfg = apply_overrides(
        get_config(name), ["optimizer.base_lr=2e-4", "dataloader.train.total_batch_size=512"]
    )
    optimizer = build_optimizer(cfg.optimizer, torch.nn.Linear(2, 2))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(4e-4)


def test_the_papers_recipe():
    """R-MAE, section 4 and MAE, table 8."""
    cfg = get_config("pretrain/rmae_vitb.py")
    assert cfg.train.max_iter == -(-4000 * 118_287 // 4096)
    assert cfg.dataloader.train.total_batch_size == 4096
    assert cfg.dataloader.train.mapper.regions.fallback.scales == [500, 1000, 1500]
    assert cfg.dataloader.train.mapper.num_regions == 8
    assert cfg.optimizer.base_lr == 1e-4 and list(cfg.optimizer.betas) == [0.9, 0.95]
    assert cfg.optimizer.weight_decay == 0.05 and cfg.model.mask_ratio == 0.75
    shapes = shapes_of("pretrain/rmae_vitb.py")
    assert type(build("pretrain/rmae_vitb.py")) is RMAE
    assert shapes["backbone.net.blocks.11.mlp.fc1.weight"] == (3072, 768)
    assert shapes["pixel_decoder.blocks.7.mlp.fc1.weight"] == (2048, 512)
    assert not any(key.startswith("region_branch.neck.blocks.1.") for key in shapes)
    cocopp, imagenet = (get_config(f"pretrain/rmae_vitb_{x}.py") for x in ("cocopp", "imagenet"))
    assert cocopp.train.max_iter == -(-4000 * 241_690 // 4096)
    assert imagenet.train.max_iter == -(-800 * 1_281_167 // 4096)


def test_weight_decay_spares_norms_and_biases():
    cfg = get_config("demo/rmae_tiny_scenes.py")
    model = instantiate(cfg.model)
    decay = {}
    for group in build_optimizer(cfg.optimizer, model).param_groups:
        for parameter in group["params"]:
            decay[id(parameter)] = group["weight_decay"]
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                spared = name == "bias" or isinstance(module, torch.nn.LayerNorm)
                assert decay.pop(id(parameter)) == (0.0 if spared else 0.05)
    assert not decay


# Of Detectron2's projects/ViTDet: parameters of the model and of its ViT, steps, milestones; depth, drop
# path, layer decay, learning rate; from its README box / mask AP, memory and time of a step.
COCO_100 = (184_375, [163_889, 177_546])
COCO_75 = (138_281, [122_916, 133_159])
LVIS_100 = (156_250, [138_889, 150_463])
PUBLISHED = {
    "coco/mask_rcnn_vitdet_b_100ep.py": (
        *(110_895_792, 85_889_024, *COCO_100, 12, 0.1, 0.7, 1e-4),
        ("51.6 / 45.9", "10.9 GB", "0.314 s"),
    ),
    "coco/mask_rcnn_vitdet_l_100ep.py": (
        *(330_684_656, 303_432_704, *COCO_100, 24, 0.4, 0.8, 1e-4),
        ("55.5 / 49.2", "20.9 GB", "0.603 s"),
    ),
    "coco/mask_rcnn_vitdet_h_75ep.py": (
        *(661_203_760, 631_116_800, *COCO_75, 32, 0.5, 0.9, 1e-4),
        ("56.7 / 50.2", "31.5 GB", "1.098 s"),
    ),
    "coco/cascade_mask_rcnn_vitdet_b_100ep.py": (
        *(141_160_990, 85_889_024, *COCO_100, 12, 0.1, 0.7, 1e-4),
        ("54.0 / 46.7", "12.3 GB", "0.362 s"),
    ),
    "coco/cascade_mask_rcnn_vitdet_l_100ep.py": (
        *(360_949_854, 303_432_704, *COCO_100, 24, 0.4, 0.8, 1e-4),
        ("57.6 / 50.0", "22.3 GB", "0.643 s"),
    ),
    "lvis/mask_rcnn_vitdet_b_100ep.py": (
        *(116_939_778, 85_889_024, *LVIS_100, 12, 0.1, 0.7, 2e-4),
        ("40.2 / 38.2", "14.4 GB", "0.317 s"),
    ),
    "lvis/mask_rcnn_vitdet_l_100ep.py": (
        *(336_728_642, 303_432_704, *LVIS_100, 24, 0.4, 0.8, 2e-4),
        ("46.1 / 43.6", "24.7 GB", "0.576 s"),
    ),
    "lvis/cascade_mask_rcnn_vitdet_b_100ep.py": (
        *(144_902_826, 85_889_024, *LVIS_100, 12, 0.1, 0.7, 2e-4),
        ("43.0 / 38.9", "15.2 GB", "0.356 s"),
    ),
    "lvis/cascade_mask_rcnn_vitdet_l_100ep.py": (
        *(364_691_690, 303_432_704, *LVIS_100, 24, 0.4, 0.8, 2e-4),
        ("49.2 / 44.5", "24.9 GB", "0.629 s"),
    ),
}


def test_every_published_recipe_is_checked():
    others = ("small", "scratch", "hiera")
    assert set(PUBLISHED) == {n for n in FINETUNE if not any(x in n for x in others)}


def test_from_scratch():
    """ViTDet's recipe for random weights, appendix A.2 and table 4; else that of 100 epochs."""
    name = "coco/mask_rcnn_vitdet_b_scratch_300ep.py"
    cfg, model = get_config(name), build(name)
    assert cfg.train.max_iter * 64 == 300 * 118_000 and cfg.train.init_checkpoint == ""
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (1.6e-4, 0.2)
    scheduler = instantiate(cfg.lr_multiplier)
    at = {step: scheduler(step / 553_125) for step in (0, 251, 491_000, 492_000, 532_000, 533_000)}
    assert at == pytest.approx(
        {0: 0.001, 251: 1, 491_000: 1, 492_000: 0.1, 532_000: 0.1, 533_000: 0.01}
    )
    groups = build_optimizer(cfg.optimizer, model).param_groups
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {
        (1.6e-4, 0.2),
        (1.6e-4, 0),
    }
    published = shapes_of("coco/mask_rcnn_vitdet_b_100ep.py")
    assert shapes_of(name) == {k: v for k, v in published.items() if "rel_pos" not in k}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes(name):
    total, in_vit, steps, milestones, depth, drop_path, decay, rate, notes = PUBLISHED[name]
    cfg, model = get_config(name), build(name)
    assert sum(p.numel() for p in model.parameters()) == total
    assert sum(p.numel() for p in model.backbone.net.parameters()) == in_vit
    net = cfg.model.backbone.net
    every = depth // 4  # four global blocks, the last of each quarter
    assert net.window_block_indexes == [i for i in range(depth) if i % every != every - 1]
    windows = [block.window_size for block in model.backbone.net.blocks]
    assert windows == [0 if i % every == every - 1 else 14 for i in range(depth)]
    assert (net.img_size, net.patch_size, net.depth) == (1024, 16, depth)
    assert net.drop_path_rate == drop_path and not model.backbone.net.use_act_checkpoint
    assert cfg.model.backbone.square_pad == 1024
    assert model.backbone.net.blocks[0].norm1.eps == 1e-6
    assert cfg.train.max_iter == steps and cfg.dataloader.train.total_batch_size == 64
    assert cfg.train.precision == "fp16" and cfg.train.ddp.fp16_compression
    assert cfg.train.clip_grad == 0
    lvis = name.startswith("lvis/")
    assert cfg.train.eval_period == (30_000 if lvis else 5000)
    # The schedule, step by step where it changes. It is asked for the share of the run that is done.
    scheduler = instantiate(cfg.lr_multiplier)
    warm_up = 250 * steps / 184_375 if "75ep" in name else 250  # published so
    assert scheduler(0) == pytest.approx(0.001)
    assert scheduler(warm_up / 2 / steps) == pytest.approx(0.5, abs=1e-3)
    assert scheduler((int(warm_up) + 1) / steps) == 1
    for milestone, before, after in zip(milestones, (1, 0.1), (0.1, 0.01), strict=True):
        assert scheduler((milestone - 1) / steps) == pytest.approx(before)
        assert scheduler(milestone / steps) == pytest.approx(after)
    # The optimizer: rates from the embedding to the heads, weight decay.
    assert cfg.optimizer.lr == rate and cfg.optimizer.weight_decay == 0.1
    assert list(cfg.optimizer.betas) == [0.9, 0.999]
    groups = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in build_optimizer(cfg.optimizer, model).param_groups
        for parameter in group["params"]
    }
    by_name = {key: groups[id(value)] for key, value in model.named_parameters()}
    huge = depth == 32
    first, last = rate * decay ** (depth + 1), rate * decay
    norms = 0.1 if huge else 0.0
    assert by_name["backbone.net.pos_embed"] == (pytest.approx(first), norms)
    assert by_name["backbone.net.patch_embed.proj.bias"] == (pytest.approx(first), 0.1)
    block = f"backbone.net.blocks.{depth - 1}"
    assert by_name[f"{block}.attn.rel_pos_h"] == (pytest.approx(last), 0.1)
    assert by_name[f"{block}.norm1.weight"] == (pytest.approx(last), norms)
    assert by_name["proposal_generator.rpn_head.anchor_deltas.weight"] == (rate, 0.1)
    # Heads.
    heads = model.roi_heads
    predictors = [heads.box_predictor] if "cascade" not in name else list(heads.box_predictor)
    for predictor in predictors:
        assert predictor.num_classes == heads.num_classes == (1203 if lvis else 80)
        assert predictor.test_score_thresh == (0.02 if lvis else 0.05)
        assert predictor.test_topk_per_image == (300 if lvis else 100)
        assert predictor.use_sigmoid_ce is predictor.use_fed_loss is lvis
        assert predictor.fed_loss_num_classes == 50
    if "cascade" in name:
        assert [matcher.thresholds[1] for matcher in heads.proposal_matchers] == [0.5, 0.6, 0.7]
        weights = [predictor.box2box_transform.weights for predictor in predictors]
        assert weights == [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)]
        assert all(len(predictor.bbox_pred.bias) == 4 for predictor in predictors)
    # The notes.
    text = ast.get_docstring(ast.parse((ROOT / name).read_text()))
    for note in (*notes, "0.30" if lvis else "0.10", f"{steps:,} steps * 64", "not run here"):
        assert note in text, note


def test_data_of_the_published_recipes():
    """ViTDet, appendix A.2: flip, resize by 0.1 to 2, crop, pad in the model; one scale for testing."""
    coco, lvis = (
        get_config(f"{folder}/mask_rcnn_vitdet_b_100ep.py").dataloader
        for folder in ("coco", "lvis")
    )
    for loader in (coco, lvis):
        flip, scale, crop = loader.train.mapper.augmentations
        assert flip.horizontal and (scale.min_scale, scale.max_scale) == (0.1, 2.0)
        assert scale.target_height == scale.target_width == 1024
        assert list(crop.crop_size) == [1024, 1024] and crop.pad is False
        assert loader.train.mapper.recompute_boxes and loader.train.mapper.use_instance_mask
        assert loader.train.mapper.image_format == loader.test.mapper.image_format == "RGB"
        (resize,) = loader.test.mapper.augmentations
        assert resize.short_edge_length == resize.max_size == 1024
        assert loader.test.dataset.filter_empty is False
    names = [loader[split].dataset.names for loader in (coco, lvis) for split in ("train", "test")]
    assert names == ["coco_2017_train", "coco_2017_val", "lvis_v1_train", "lvis_v1_val"]
    assert coco.train.get("repeat_threshold") is None and lvis.train.repeat_threshold == 0.001
    assert lvis.evaluator.max_dets_per_image == 300


def test_the_schedule_follows_the_number_of_steps():
    cfg = apply_overrides(get_config("coco/mask_rcnn_vitdet_b_100ep.py"), ["train.max_iter=1000"])
    scheduler = instantiate(cfg.lr_multiplier)
    # Asked for step / train.max_iter.
    assert [round(scheduler(step / 1000), 6) for step in (0, 2, 888, 889, 962, 963)] == [
        *(0.001, 1, 1, 0.1, 0.1, 0.01)
    ]


@pytest.mark.parametrize("name", DETECTION)
def test_one_switch_for_recomputing_activations(name):
    for value in (True, False):
        cfg = apply_overrides(get_config(name), [f"train.activation_checkpointing={value}"])
        assert cfg.model.backbone.net.use_act_checkpoint is value


def test_the_small_recipe_is_small():
    cfg = get_config("coco/mask_rcnn_vitdet_b_1x_small.py")
    loader = cfg.dataloader.train
    assert loader.total_batch_size // cfg.train.grad_accum == 2
    assert cfg.train.activation_checkpointing and cfg.train.precision == "bf16"
    assert cfg.train.max_iter * loader.total_batch_size == 12 * 118_000
    # One key for the side of the input, from the crop to the relative positions.
    cfg = apply_overrides(cfg, ["model.backbone.net.img_size=512"])
    crop = cfg.dataloader.train.mapper.augmentations[2].crop_size
    assert list(crop) == [512, 512] and cfg.model.backbone.square_pad == 512
    assert cfg.dataloader.test.mapper.augmentations[0].max_size == 512


@pytest.mark.parametrize("name", DETECTION)
def test_own_detection_data_in_every_recipe(name, photos, tmp_path):
    instance = {"bbox": [10, 10, 80, 60], "segmentation": [[10, 10, 90, 10, 90, 70, 10, 70]]}
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": 120, "width": 160} for i in range(3)
        ],
        "categories": [{"id": 5, "name": "cat"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 5, "area": 4800, "iscrowd": 0, **instance}
            for i in range(1, 3)
        ],
    }
    (tmp_path / "own.json").write_text(json.dumps(content))
    cfg = apply_overrides(
        get_config(name),
        [
            f"dataloader.{split}.dataset.{key}={value}"
            for split in ("train", "test")
            for key, value in (("json", tmp_path / "own.json"), ("root", photos))
        ]
        + [
            "dataloader.train.total_batch_size=2",
            "dataloader.train.num_workers=0",
            "dataloader.test.num_workers=0",
            "train.grad_accum=1",
        ],
    )
    side = cfg.model.backbone.net.img_size
    first, second = next(iter(instantiate(cfg.dataloader.train)))
    for sample in (first, second):
        assert sample["image"].dtype == torch.uint8 and max(sample["image"].shape) <= side
        assert sample["instances"].gt_classes.tolist() in ([], [0])
    tested = [samples[0] for samples in instantiate(cfg.dataloader.test)]
    assert [sample["image_id"] for sample in tested] == [0, 1, 2]
    assert all(max(sample["image"].shape) == side for sample in tested)
    if not name.startswith("lvis/"):  # whose evaluation needs what LVIS's jsons have
        assert instantiate(cfg.dataloader.evaluator).rules == "coco"
