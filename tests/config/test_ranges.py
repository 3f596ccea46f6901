"""Numbers out of their range, of configs and command lines."""

import argparse

import pytest
from omegaconf import OmegaConf

from rmae_d2.commands.options import integer, real
from rmae_d2.config import apply_overrides, get_config
from rmae_d2.config.find import available
from rmae_d2.config.ranges import COUNT, NOT_NEGATIVE, PROPER_SHARE, Range, check_ranges, range_of
from rmae_d2.errors import UserError


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.max_iter=-5", "train.max_iter=-5: 1 or more"),
        ("train.max_iter=0", "train.max_iter=0: 1 or more"),
        ("train.eval_period=-1", "0 or more"),
        ("train.log_period=0", "1 or more"),
        ("train.ema.decay=1.0", "train.ema.decay=1.0: 0 or more and less than 1"),
        ("train.max_skipped_fraction=2.0", "0 or more and at most 1"),
        ("train.checkpointer={period: -1}", "train.checkpointer.period=-1: 0 or more"),
        ("dataloader.train.num_workers=-1", "0 or more"),
        ("dataloader.train.total_batch_size=0", "1 or more"),
        ("dataloader.train.mapper.augmentations.0.scale=[-1.0, 1.0]", "scale=-1.0: more than 0"),
        ("dataloader.train.prefetch_factor=0", "1 or more"),
        ("dataloader.knn.evaluator.temperature=0.0", "more than 0"),
        ("model.mask_ratio=1.0", "model.mask_ratio=1.0: more than 0 and less than 1"),
        ("model.backbone.net.img_size=-160", "1 or more"),
        ("optimizer.betas=[0.9, 1.5]", "optimizer.betas=1.5: 0 or more and less than 1"),
        ("optimizer.base_lr=.nan", "optimizer.base_lr=nan: 0 or more"),
        ("optimizer.base_lr=.inf", "optimizer.base_lr=inf: 0 or more"),
        ("lr_multiplier.warmup_length=1.5", "0 or more and at most 1"),
    ],
)
def test_refused(override, says):
    with pytest.raises(UserError) as refused:
        apply_overrides(get_config("demo/rmae_tiny_scenes.py"), [override])
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_the_ends_are_for_regions_only():
    for ratio in (0, 1, 1.0):
        apply_overrides(
            get_config("demo/rmae_tiny_scenes.py"), [f"model.region_branch.mask_ratio={ratio}"]
        )
    assert 1.0 not in range_of("model.mask_ratio") and 1.5 not in range_of(
        "mapper.region_mask_ratio"
    )


@pytest.mark.parametrize("name", ["imagenet/linear_vitb.py", "coco/mask_rcnn_vitdet_b_100ep.py"])
@pytest.mark.parametrize("override", ["fraction=0.0", "fraction=1.5", "fraction_seed=-1"])
def test_fractions_of_data_sets(name, override):
    says = "0 or more" if "seed" in override else "more than 0 and at most 1"
    with pytest.raises(UserError, match=f"dataset.{override}: {says}$"):
        apply_overrides(get_config(name), [f"dataloader.train.dataset.{override}"])


def test_all_at_once():
    bad = ["train.max_iter=-5", "optimizer.base_lr=-1", "train.clip_grad=3"]
    with pytest.raises(UserError) as refused:
        apply_overrides(get_config("demo/rmae_tiny_scenes.py"), bad)
    lines = sorted(str(refused.value).splitlines())
    assert lines == ["optimizer.base_lr=-1.0: 0 or more", "train.max_iter=-5: 1 or more"]


@pytest.mark.parametrize("name", [n for n in available() if not n.startswith("common")])
def test_our_configs_are_in_range(name):
    check_ranges(OmegaConf.to_container(get_config(name)))


def test_more_specific_keys_come_first():
    assert range_of("model.backbone.net.depth") == COUNT
    assert range_of("model.pixel_decoder.depth") == NOT_NEGATIVE
    assert range_of("model.masking.generator.scorer.block") is None  # -1 is the last


def test_words():
    assert str(Range()) == "a finite number"
    assert 0.5 in PROPER_SHARE and 0.0 not in PROPER_SHARE and 1.0 not in PROPER_SHARE
    assert float("nan") not in Range() and float("inf") not in Range()


def test_options():
    assert integer(COUNT)("3") == 3 and real(PROPER_SHARE)("0.25") == 0.25
    for bad in ("0", "-3"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"{bad}: 1 or more"):
            integer(COUNT)(bad)
    with pytest.raises(ValueError):
        integer(COUNT)("1.5")
