"""Every ablation and size takes a step when shrunk, changes what it says, and costs what the docs say."""

import argparse
import ast
import re
import shlex
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from rmae_d2.checkpoint import export_backbone, load_pretrained
from rmae_d2.commands import sweep
from rmae_d2.config import apply_overrides, config_root, get_config, load_config, save_config
from rmae_d2.engine.sweep import plan
from rmae_d2.errors import StoreError
from rmae_d2.modeling import (
    BatchRegionBranch,
    BoxPriorMasking,
    ChannelRegionBranch,
    IndependentMasking,
    RegionBranch,
    RegionGuidedMasking,
)
from rmae_d2.modeling.analysis import analyze
from rmae_d2.noise import random_shuffle, region_shuffle
from tests.helpers import config_step, region_samples, shrunk

ROOT = config_root()
ABLATIONS = sorted(f"ablations/{path.name}" for path in ROOT.glob("ablations/*.py"))
# AutoMAE's own configs need a scorer's weights and are tested where AutoMAE is.
PRETRAIN = [
    f"pretrain/{path.name}"
    for path in sorted(ROOT.glob("pretrain/*.py"))
    if not path.name.startswith("automae")
]
DOCS = Path(__file__).resolve().parents[1] / "docs" / "ablations.md"


@pytest.mark.parametrize("name", [*ABLATIONS, *PRETRAIN])
def test_one_step_of_the_shrunk_model(name):
    cfg = shrunk(name)
    model, losses, moved = config_step(cfg)
    expected = {"loss_pixel": cfg.model.pixel_decoder, "loss_region": cfg.model.region_branch}
    assert losses.keys() == {loss for loss, part in expected.items() if part is not None}
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert moved == trained.keys() and all(p.grad.isfinite().all() for p in trained.values())


@pytest.mark.parametrize("name", ABLATIONS)
def test_headers_are_lab_notes(name):
    text = ast.get_docstring(ast.parse((ROOT / name).read_text()))
    for part in ("Command:", "Published:", r"Measured: +not run here"):
        assert re.search(f"^{part}", text, re.MULTILINE), part
    assert f"--config-file configs/{name} --num-gpus 8" in text
    assert get_config(name).train.output_dir == f"output/{name.removesuffix('.py')}"
    # Overrides that the header names are taken; "x=1, 2" stands for two of them.
    cfg = get_config(name)
    for key, value in re.findall(
        r"((?:model|dataloader)\.[\w.]+)=(\w(?:[\w.]*\w)?|\[[\d,]+\])", text
    ):
        if value not in ("DIR", "FILE"):
            apply_overrides(cfg, [f"{key}={value}"])


SWEPT = [name for name in ABLATIONS if "rmae-d2 sweep --config" in (ROOT / name).read_text()]


@pytest.mark.parametrize("name", SWEPT)
def test_sweeps_of_headers_are_planned(name, tmp_path):
    """The command as it stands there, whose second stage is checked too; it holds the config's own point."""
    text = ast.get_docstring(ast.parse((ROOT / name).read_text()))
    words = shlex.split(re.search(r"rmae-d2 (sweep .*?)\n\w+:", text, re.DOTALL)[1])
    parser = argparse.ArgumentParser()
    sweep.arguments(parser)
    args = parser.parse_intermixed_args(words[1:])
    assert args.output == Path(get_config(name).train.output_dir)
    runs = plan(args.config_file, args.opts, tmp_path, args.seeds, args.then, args.then_set)
    assert len(runs) > 3 and all(len(run.stages) == 2 for run in runs)
    own = get_config(name)
    assert any(
        all(str(OmegaConf.select(own, key)) == value for key, value in run.values.items())
        for run in runs
    )


def test_the_papers_curves_are_sweeps():
    expected = {"mask_ratio_joint", "mask_ratio_regions", "num_regions", "region_weight"}
    assert expected | {"neck_depth", "box_prior"} <= {Path(name).stem for name in SWEPT}


# What a leaf changes of the recipe that it ablates, and nothing else.
CHANGES = {
    "background_weight": {"model.background_weight"},
    "box_prior": {
        "model.masking",
        "dataloader.train.mapper.regions",
        "dataloader.train.mapper.num_regions",
        "dataloader.test.mapper",
    },
    "branch_size": {"model.region_branch.encoder_dim", "model.region_branch.decoder_dim"},
    "feeding_both": {"model.feeding"},
    "feeding_region_to_pixel": {"model.feeding"},
    "loss_l2": {"model.region_criterion"},
    "mask_ratio_joint": {"model.mask_ratio"},
    "mask_ratio_regions": {"model.region_branch.mask_ratio"},
    "masks_independent": {"model.masking"},
    "neck_depth": {"model.region_branch.neck_depth"},
    "num_regions": {"dataloader.train.mapper.num_regions"},
    "query_pooling": {"model.region_branch.query_pool"},
    "rae_batch": {"model.region_branch._target_"},
    "rae_channel": {"model.region_branch._target_", "model.region_branch.num_regions"},
    "rae_regions_instances": {"dataloader.train.mapper.regions", "dataloader.test.mapper"},
    "rae_regions_panoptic": {
        "dataloader.train.mapper.regions",
        "dataloader.train.dataset.names",
        "dataloader.test.dataset.names",
    },
    "rae_regions_sam": {"dataloader.train.mapper.regions.fallback"},
    "nested_regions": {
        "dataloader.train.mapper.regions.fallback",
        "dataloader.train.mapper.level_probabilities",
    },
    "partial_decoding": {"model.decode_ratio", "model.pixel_decoder.hidden_attention"},
    "region_dropout": {"model.region_dropout"},
    "region_guided_masking": {"model.masking"},
    "region_weight": {"model.region_weight"},
    "regions_fh_one_scale": {"dataloader.train.mapper.regions.fallback.scales"},
    "regions_instances": {"dataloader.train.mapper.regions", "dataloader.test.mapper"},
    "regions_mixture": {"dataloader.train.mapper.regions", "dataloader.test.mapper"},
    "regions_panoptic": {
        "dataloader.train.mapper.regions",
        "dataloader.train.dataset.names",
        "dataloader.test.dataset.names",
    },
    "regions_sam": {"dataloader.train.mapper.regions.fallback"},
    "rmae_batch": {"model.region_branch._target_"},
    "rmae_channel": {"model.region_branch._target_", "model.region_branch.num_regions"},
    "visible_foreground": {"dataloader.train.mapper.visible_foreground_only"},
}


def differences(a, b, path=""):
    """Dotted keys at which two configs differ, references unresolved; of absent parts the outermost key."""
    found = set()
    for key in {*a, *b}:
        name = f"{path}{key}"
        x, y = (node._get_node(key) if key in node else None for node in (a, b))
        if isinstance(x, DictConfig) and isinstance(y, DictConfig):
            mixed = any(OmegaConf.is_interpolation(node, key) for node in (a, b))
            same_part = x.get("_target_") == y.get("_target_") or name == "model.region_branch"
            if mixed or not same_part:
                found.add(name)
            else:
                found |= differences(x, y, f"{name}.")
        elif (x is None) != (y is None) or (x is not None and x._value() != y._value()):
            found.add(name)
    return found


def test_every_ablation_is_listed():
    assert {Path(name).stem for name in ABLATIONS} == set(CHANGES)


@pytest.mark.parametrize("stem", CHANGES)
def test_a_leaf_changes_what_its_name_says(stem):
    base = {"rae": "rae", "box": "mae"}.get(stem.partition("_")[0], "rmae")
    base = get_config(f"pretrain/{base}_vitb.py")
    found = differences(get_config(f"ablations/{stem}.py"), base)
    assert found == CHANGES[stem] | {"train.output_dir"}


def test_parts_are_of_the_named_kind():
    kinds = {
        "rmae_batch": BatchRegionBranch,
        "rae_channel": ChannelRegionBranch,
        "neck_depth": RegionBranch,
    }
    for stem, kind in kinds.items():
        assert type(instantiate(shrunk(f"ablations/{stem}.py").model).region_branch) is kind
    masking = instantiate(shrunk("ablations/region_guided_masking.py").model).masking
    assert type(instantiate(shrunk("ablations/box_prior.py").model).masking) is BoxPriorMasking
    assert type(masking) is IndependentMasking and type(masking.pixels) is RegionGuidedMasking


def test_the_channel_variant_follows_the_loaders_regions():
    for stem in ("rae_channel", "rmae_channel"):
        cfg = apply_overrides(
            shrunk(f"ablations/{stem}.py"), ["dataloader.train.mapper.num_regions=5"]
        )
        side = cfg.model.backbone.net.img_size
        assert set(instantiate(cfg.model)(region_samples(2, (side, side), 5)))


# ---- the mapper follows the model


MAPPER = ["dataloader.train.mapper.visible_foreground_only=true"]


def mapper_of(cfg, overrides=()):
    mapper = apply_overrides(cfg, ["dataloader.train.mapper.regions=null", *overrides])
    return instantiate(mapper.dataloader.train.mapper)


def test_the_mapper_follows_ratio_and_masks_of_the_model(tmp_path):
    base = get_config("pretrain/rmae_vitb.py")
    assert mapper_of(base).mask_ratio == 0.75
    assert mapper_of(base, ["model.mask_ratio=0.5"]).mask_ratio == 0.5
    assert mapper_of(base, ["model.region_branch.mask_ratio=0.6"]).mask_ratio == 0.6
    assert mapper_of(base, ["model.region_branch=null"]).mask_ratio == 0.75
    assert mapper_of(get_config("ablations/mask_ratio_regions.py")).mask_ratio == 0.5
    independent = get_config("ablations/masks_independent.py")
    assert mapper_of(base, MAPPER).order is random_shuffle
    assert mapper_of(independent, MAPPER).order is region_shuffle
    save_config(independent, tmp_path / "config.yaml")
    assert mapper_of(load_config(tmp_path / "config.yaml"), MAPPER).order is region_shuffle
    guided = "model.masking={_target_: rmae_d2.modeling.RegionGuidedMasking}"
    assert mapper_of(base, [guided]).order is None
    with pytest.raises(ValueError, match="no matter of the seed alone"):
        mapper_of(base, [guided, *MAPPER])


# ---- regions of real data sets


@pytest.mark.parametrize(
    "stem",
    [
        "regions_instances",
        "regions_panoptic",
        "box_prior",
        pytest.param("regions_mixture", marks=pytest.mark.slow),
    ],
)
def test_sources_on_real_photos(shared_data, stem, monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared_data))
    coco = shared_data / "coco"
    labels = coco / "annotations" / "instances_train2017.json"
    overrides = [
        f"dataloader.train.dataset.root={labels}",
        f"dataloader.train.dataset.image_root={coco / 'train2017'}",
        f"train.output_dir={tmp_path / 'run'}",
        "dataloader.train.total_batch_size=4",
        "dataloader.train.num_workers=0",
        "model.backbone.net.img_size=64",
    ]
    if stem == "regions_panoptic":
        overrides.append(f"dataloader.train.mapper.regions.folder={coco / 'panoptic_train2017'}")
    cfg = apply_overrides(get_config(f"ablations/{stem}.py"), overrides)
    batch = next(iter(instantiate(cfg.dataloader.train)))
    K = 2 if stem == "box_prior" else 1  # bytes of eight maps each
    assert all(sample["regions"].shape == (K, 64, 64) for sample in batch)
    assert any(sample["regions"].any() for sample in batch)


@pytest.mark.parametrize("stem", ["regions_sam", "rae_regions_sam"])
def test_sam_needs_a_store(stem):
    with pytest.raises(StoreError, match=r"dataloader\.train\.mapper\.regions\.path=DIR"):
        instantiate(get_config(f"ablations/{stem}.py").dataloader.train.mapper)


# ---- continued pre-training


def randomised(model):
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("begin", ["rmae_vitb", "mae_vitb"])
def test_continued_pre_training_takes_the_decoders(begin, tmp_path):
    weights = randomised(instantiate(shrunk(f"pretrain/{begin}.py").model)).state_dict()
    torch.save({"model": weights}, tmp_path / "model_final.pth")
    cfg = shrunk("pretrain/rmae_vitb_continued.py")
    model = instantiate(cfg.model)
    report = load_pretrained(model, str(tmp_path / "model_final.pth"))
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in weights.items())
    assert any(key.startswith("pixel_decoder.blocks.") for key in report.copied)
    left = {key.split(".")[0] for key in report.new}
    assert left == (set() if begin == "rmae_vitb" else {"region_branch"})


def test_a_larger_image_takes_the_weights_of_a_small_one():
    small = randomised(instantiate(shrunk("pretrain/rmae_vitb.py").model))
    cfg = apply_overrides(shrunk("pretrain/rmae_vitb_448.py"), ["model.backbone.net.img_size=128"])
    model = instantiate(cfg.model)
    report = load_pretrained(model, small.state_dict())
    assert sorted(report.resampled) == [
        "backbone.net.pos_embed",
        "pixel_decoder.pos_embed",
        "region_branch.encoder.pos_embed",
        "region_branch.neck.pos_embed",
    ]
    assert not report.new and not report.unused


@pytest.mark.parametrize("stem", ["rmae_batch", "rmae_channel", "feeding_both", "query_pooling"])
def test_a_variant_takes_its_own_weights(stem, tmp_path):
    """As --eval-only and continued pre-training do; the end of a run exports its backbone."""
    model = randomised(instantiate(shrunk(f"ablations/{stem}.py").model))
    torch.save({"model": model.state_dict()}, tmp_path / "model_final.pth")
    other = instantiate(shrunk(f"ablations/{stem}.py").model)
    load_pretrained(other, str(tmp_path / "model_final.pth"), require_all=True)
    for key, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    exported = export_backbone(model.state_dict(), str(tmp_path / "backbone.pth"))
    assert exported and not any("region" in key for key in exported)


# ---- sizes and schedules


def test_sizes_and_schedules():
    small, huge = (get_config(f"pretrain/rmae_vit{x}.py").model.backbone.net for x in "sh")
    assert (small.embed_dim, small.depth, small.num_heads, small.patch_size) == (384, 12, 6, 16)
    assert (huge.embed_dim, huge.depth, huge.num_heads, huge.patch_size) == (1280, 32, 16, 14)
    long = get_config("pretrain/rmae_vitb_imagenet_1600ep.py")
    assert long.train.max_iter == -(-1600 * 1_281_167 // 4096)
    assert long.lr_multiplier.warmup_length == 40 / 1600
    large = get_config("pretrain/rmae_vitb_1024.py")
    assert large.train.max_iter == -(-50 * 118_287 // 256)
    assert large.dataloader.train.total_batch_size == 8 * 32
    for name in ("rmae_vitb_448", "rmae_vitb_continued"):
        assert get_config(f"pretrain/{name}.py").train.max_iter == -(-400 * 118_287 // 4096)
    model = instantiate(shrunk("pretrain/rmae_vitb_1024.py").model)
    assert model.backbone.net.use_act_checkpoint and model.pixel_decoder.use_act_checkpoint


# ---- costs are those of the docs


def table_after(heading):
    """Rows of the first table below a heading of the docs, cells as text."""
    lines = iter(DOCS.read_text().splitlines())
    assert any(line == heading for line in lines), heading
    rows = []
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    header, _, *body = rows
    return [dict(zip(header, row, strict=True)) for row in body]


COSTS = table_after("## Costs") if DOCS.exists() else []
FEW = ("/rmae_vitb.py", "rmae_batch.py", "rmae_channel.py", "feeding_both.py")


def test_every_model_has_its_costs_in_the_docs():
    listed = {row["model"].strip("`") for row in COSTS}
    text = DOCS.read_text() + (DOCS.parent / "experiments.md").read_text()
    for name in [*ABLATIONS, *PRETRAIN]:
        assert name in listed or f"`{name}`" in text, name


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            row,
            id=row["model"],
            marks=() if row["model"].strip("`").endswith(FEW) else pytest.mark.slow,
        )
        for row in COSTS
    ],
)
def test_costs_are_those_of_the_docs(row):
    cfg = get_config(row["model"].strip("`"))
    found = analyze(lambda: instantiate(cfg.model), cfg.dataloader.train.mapper.num_regions)
    assert row["parameters, M"] == f"{sum(found.parameters.values()) / 1e6:.2f}"
    assert row["GMACs"] == f"{sum(found.macs.values()) / 1e9:.3f}"
    for part, macs in found.macs.items():
        assert row.get(part, "0.000") == f"{macs / 1e9:.3f}", part
    assert row["MiB per image"] == f"{found.activation_bytes / 2**20:.1f}"


SWEEP = {"length": "pretrain/rmae_vitb.py"} | {
    variant: f"ablations/rmae_{variant}.py" for variant in ("batch", "channel")
}


@pytest.mark.parametrize("variant", SWEEP)
def test_costs_of_more_regions(variant):
    """As documented: linear in K, ten times steeper for batch than for channel, length between."""
    rows = {int(row["K"]): row for row in table_after("## Costs of more regions")}
    assert list(rows) == [1, 2, 4, 8, 16, 32]
    for K in (1, 32):
        cfg = apply_overrides(
            get_config(SWEEP[variant]), [f"dataloader.train.mapper.num_regions={K}"]
        )
        found = analyze(lambda cfg=cfg: instantiate(cfg.model), K)
        assert rows[K][variant] == f"{sum(found.macs.values()) / 1e9:.3f}"
        assert rows[K][f"{variant}, MiB per image"] == f"{found.activation_bytes / 2**20:.1f}"
    slope = {K: (float(rows[K][variant]) - float(rows[1][variant])) / (K - 1) for K in (8, 32)}
    assert slope[8] == pytest.approx(slope[32], abs=2e-4)
    assert slope[32] == pytest.approx(
        {"length": 0.0216, "batch": 0.0707, "channel": 0.0064}[variant], abs=1e-4
    )
