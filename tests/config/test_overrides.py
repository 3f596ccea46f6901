"""Overrides: what is accepted, what is refused, and that nothing is refused silently."""

import functools
import string
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import configurable, instantiate
from detectron2.modeling import ViT
from detectron2.modeling.backbone import SimpleFeaturePyramid
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from torch import nn

from rmae_d2.config.overrides import apply_overrides, known_keys
from rmae_d2.errors import UserError


class Head(nn.Module):
    """A part as Detectron2 writes them: its signature stands behind a decorator."""

    @configurable
    def __init__(
        self,
        *,
        width: int,
        depth: int = 2,
        scale: float = 1,
        gain: float | None = None,
        photos: str | Path | None = None,
    ):
        super().__init__()

    @classmethod
    def from_config(cls, cfg: object) -> dict[str, object]:
        return {}


def open_ended(**kwargs: object) -> dict[str, object]:
    return kwargs


def loss(x: int) -> int:
    return x


NORM = functools.partial(nn.LayerNorm, eps=1e-6)


def make_config() -> DictConfig:
    return OmegaConf.create(
        {
            "train": {
                "max_iter": 1000,
                "output_dir": "./output",
                "init_checkpoint": "",
                "ratio": 0.75,
                "seed": None,
                "note": None,
                "token": "???",
                "eval_period": "${train.max_iter}",
                "lost": "${nowhere.at_all}",
                "amp": {"enabled": True},
                "scales": [500, 1000, 1500],
            },
            "model": {
                "backbone": L(SimpleFeaturePyramid)(
                    net=L(ViT)(embed_dim=32, depth=2, norm_layer=NORM, window_size=0),
                    in_feature="${.net.out_feature}",
                    out_channels=16,
                ),
                "head": L(Head)(width=8, scale=1),
                "open": L(open_ended)(a=1),
                "loss": loss,
                "mean": [1, 2.5],
            },
            "optimizer": L(torch.optim.AdamW)(lr=1e-4, betas=(0.9, 0.999), overrides={}),
            "lr_multiplier": L(WarmupParamScheduler)(
                scheduler=L(MultiStepParamScheduler)(
                    values=[1.0, 0.1], milestones=[800], num_updates="${train.max_iter}"
                ),
                warmup_factor=0.0,
                warmup_length="${warmup:${train.max_iter}}",
            ),
            "augmentations": [L(nn.Dropout)(p=0.5), L(nn.Identity)()],
        },
        flags={"allow_objects": True},
    )


OmegaConf.register_new_resolver("warmup", lambda n: 100 / n, replace=True)
ABSENT = object()


def overridden(override: str, key: str | None = None) -> object:
    cfg = apply_overrides(make_config(), [override])
    return OmegaConf.select(cfg, key or override.partition("=")[0].strip(), default=ABSENT)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.max_iter=7", 7),
        ("train.max_iter=1e6", 1_000_000),
        (" train.max_iter = 7 ", 7),
        ("train.ratio=1", 1.0),
        ("train.ratio=1e-4", 1e-4),
        ("train.amp.enabled=false", False),
        ("train.amp.enabled=True", True),
        ("train.output_dir=2024", "2024"),
        ("train.output_dir=1e-4", "1e-4"),
        ("train.output_dir=a: [b", "a: [b"),
        ("train.output_dir=", ""),
        ("train.output_dir=null", None),
        ("train.output_dir='null'", "null"),
        (
            "train.init_checkpoint=/a/b.pth?matching_heuristics=True",
            "/a/b.pth?matching_heuristics=True",
        ),
        ("train.init_checkpoint='/a b.pth?x=True'", "/a b.pth?x=True"),
        ('train.init_checkpoint="/a.pth?x=True"', "/a.pth?x=True"),
        ("train.output_dir=out/${train.max_iter}", "out/1000"),
        ("train.seed=3", 3),
        ("train.note=holiday: 2017", "holiday: 2017"),
        ("train.note=- a", "- a"),
        ("train.note={a: 1}", {"a": 1}),
        ("model.head.photos=holiday: 2017", "holiday: 2017"),
        ("model.head.photos=2017", "2017"),
        ("model.head.photos=null", None),
        ("train.seed=[1, {a: b}]", [1, {"a": "b"}]),
        ("train.token=abc", "abc"),
        ("train.eval_period=5", 5),
        ("train.lost=5", 5),
        ("train.lost=abc", "abc"),
        ("train.scales=[500, 1e3]", [500, 1000]),
        ("train.scales=[]", []),
        ("train.scales=null", None),
        ("train.scales.1=7", 7),
        ("model.mean=[1, 0.5, 3]", [1, 0.5, 3]),
        ("train.amp=null", None),
        ("train.amp={enabled: false}", {"enabled": False}),
        ("model.backbone.net.drop_path_rate=0.1", 0.1),
        ("model.backbone.net.window_block_indexes=[0, 1]", [0, 1]),
        ("model.head.depth=3", 3),
        ("model.head.scale=0.5", 0.5),  # an int in the config, a float in the signature
        ("model.head.gain=null", None),
        ("model.head.gain=2", 2.0),
        ("optimizer.amsgrad=true", True),
        ("optimizer.betas=[0.5, 0]", [0.5, 0.0]),
        (
            "optimizer.overrides={pos_embed: {weight_decay: 0.0}}",
            {"pos_embed": {"weight_decay": 0.0}},
        ),
        ("augmentations.0.p=0.25", 0.25),
        ("model.head._target_=torch.nn.Linear", "torch.nn.Linear"),
        ("model.loss=null", None),
    ],
)
def test_accepted(override: str, value: object):
    given = overridden(override)
    assert given == value
    assert type(given) is type(value) or OmegaConf.is_config(given)


def test_brackets_index_lists():
    assert overridden("train.scales[2]=7", "train.scales.2") == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trian.max_iter=3", "trian.max_iter: unknown key; did you mean train.max_iter"),
        ("max_iter=3", "max_iter: unknown key; did you mean train.max_iter"),
        ("train.maxiter=3", "did you mean train.max_iter"),
        ("+train.max_iter=3", "did you mean train.max_iter"),
        ("train.scales.3=7", "unknown key; did you mean train.scales.0"),
        ("train.scales.-1=7", "unknown key"),
        ("train.eval_period.x=7", "unknown key"),
        ("model.backbone.net.drop_path=0.1", "did you mean model.backbone.net.drop_path_rate"),
        ("model.head.cfg=1", "unknown key"),
        ("model.open.b=1", "unknown key"),
        ("optimizer.weight_decy=0.1", "did you mean optimizer.weight_decay"),
        ("qqqqqq=1", "known are augmentations, lr_multiplier, model, optimizer, train"),
        ("train.max_iter=abc", "train.max_iter: expected int, got str abc (now 1000)"),
        ("train.max_iter=1.5", "expected int, got float 1.5"),
        ("train.max_iter=true", "expected int, got bool true"),
        ("train.max_iter=null", "expected int, got null"),
        ("train.max_iter=", "expected int, got nothing"),
        ("train.max_iter=@", "expected int, got invalid YAML @"),
        ("train.max_iter=inf", "expected int"),
        ("train.ratio=abc", "expected float, got str abc (now 0.75)"),
        ("train.ratio=null", "expected float, got null"),
        ("train.ratio=[0.5]", "expected float, got list [0.5]"),
        ("train.amp.enabled=1", "expected bool (true or false), got int 1"),
        ("train.amp.enabled=yes", "expected bool (true or false), got bool yes"),
        ("train.amp.enabled=null", "expected bool"),
        ("train.eval_period=abc", "expected int, got str abc (now 1000)"),
        ("train.eval_period=${train.ratio}", "expected int"),
        ("train.max_iter=${no.where}", "train.max_iter=${no.where}: Interpolation key"),
        ("train.max_iter=${", "train.max_iter=${: "),
        ("train.lost=[1]", "expected scalar, got list [1]"),
        ("train.scales=500", "expected list of int, got int 500 (now [500, 1000, 1500])"),
        ("train.scales=500,1000", "expected list of int"),
        ("train.scales=[a]", "expected list of int"),
        ("train.scales=[0.5]", "expected list of int"),
        ("train.seed=[1", "invalid YAML"),
        ("train.amp=true", "expected dict, got bool true"),
        (
            "train.amp={enable: true}",
            "train.amp.enable: unknown key; did you mean train.amp.enabled",
        ),
        ("train.amp={enabled: 3}", "train.amp.enabled: expected bool"),
        ("train.max_iter={a: 1}", "expected int, got dict {a: 1}"),
        ("model.head.depth=abc", "model.head.depth: expected int, got str abc (now unset)"),
        ("model.head.gain=abc", "expected float or null"),
        ("model.backbone.net.drop_path_rate=abc", "expected float, got str abc (now unset)"),
        ("model.backbone.net.norm_layer=LN", "expected null or {_target_: ...}, got str LN"),
        ("model.backbone.net.norm_layer={eps: 1}", "expected null or {_target_: ...}"),
        ("optimizer.lr=abc", "expected float, got str abc (now 0.0001)"),
        ("model.head._target_=Linear", "'Linear' is not the dotted name"),
        ("model.head._target_=torch.nn.Linaer", "'torch.nn.Linaer' is not the dotted name"),
        ("model.head._target_=torch.nn", "'torch.nn' is not the dotted name"),
        ("model.head._target_=3", "is not the dotted name"),
        ("train.seed={_target_: no.such}", "'no.such' is not the dotted name"),
        ("augmentations=[{_target_: no.such}]", "'no.such' is not the dotted name"),
        ("augmentations=[3]", "expected list of dict"),
        ("--resume", "--resume: overrides are key=value, and flags go before them"),
        ("--num-gpus=2", "flags go before them"),
        ("resume", "resume: overrides are key=value"),
        ("=3", "overrides are key=value"),
    ],
)
def test_refused(override: str, message: str):
    cfg = make_config()
    before = OmegaConf.to_container(cfg)
    with pytest.raises(UserError) as error:
        apply_overrides(cfg, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert OmegaConf.to_container(cfg) == before


def test_all_errors_come_together_one_line_each():
    bad = ["trian.max_iter=3", "train.ratio=0.5", "train.max_iter=x", "--resume"]
    bad += ["train.amp={enabled: 3, b: 1}", "train.ratio=${"]
    with pytest.raises(UserError) as error:
        apply_overrides(make_config(), bad)
    lines = str(error.value).splitlines()
    starts = ["trian.max_iter:", "train.max_iter:", "--resume:"]
    starts += ["train.amp.enabled:", "train.amp.b:", "train.ratio=${:"]
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))


@pytest.mark.parametrize(
    "words",
    [
        ["train.max_iter", "=", "7"],
        ["train.max_iter", "=7"],
        ["train.max_iter", "=", "7", "train.seed=1"],
    ],
)
def test_spaces_that_the_shell_split_at(words: list[str]):
    assert apply_overrides(make_config(), words).train.max_iter == 7


def test_a_flag_is_never_taken_for_a_value():
    with pytest.raises(UserError, match="--resume: overrides are key=value"):
        apply_overrides(make_config(), ["train.output_dir", "=", "--resume"])


def test_later_overrides_win_and_parents_and_children_work_in_order():
    both = ["train.amp={enabled: false}", "train.amp.enabled=true"]
    assert apply_overrides(make_config(), both).train.amp.enabled is True
    assert apply_overrides(make_config(), both[::-1]).train.amp.enabled is False
    with pytest.raises(UserError, match=r"train\.amp\.enabled: unknown key"):
        apply_overrides(make_config(), ["train.amp=null", "train.amp.enabled=true"])
    replaced = [
        "model.head={_target_: torch.nn.Linear, in_features: 3}",
        "model.head.out_features=4",
    ]
    assert isinstance(instantiate(apply_overrides(make_config(), replaced).model.head), nn.Linear)


def test_another_part_takes_nothing_from_the_one_it_replaces():
    cfg = apply_overrides(
        make_config(), ["augmentations.0={_target_: torch.nn.ReLU, inplace: true}"]
    )
    assert cfg.augmentations[0] == {"_target_": "torch.nn.ReLU", "inplace": True}
    with pytest.raises(UserError, match=r"augmentations\.0\.inplac: .*augmentations\.0\.inplace"):
        apply_overrides(make_config(), ["augmentations.0={_target_: torch.nn.ReLU, inplac: true}"])


def test_a_part_behind_a_reference_is_not_changed_through_it():
    cfg = make_config()
    cfg.test = {"amp": "${train.amp}"}
    with pytest.raises(UserError, match=r"test\.amp refers to another key"):
        apply_overrides(cfg, ["test.amp={enabled: false}"])
    with pytest.raises(UserError, match=r"did you mean train\.amp\.enabled"):
        apply_overrides(cfg, ["test.amp.enabled=false"])
    assert apply_overrides(cfg, ["test.amp=null"]).train.amp.enabled is True


def test_max_iter_moves_the_whole_schedule():
    cfg = apply_overrides(make_config(), ["train.max_iter=2000"])
    assert cfg.train.eval_period == 2000
    assert cfg.lr_multiplier.scheduler.num_updates == 2000
    assert cfg.lr_multiplier.warmup_length == 100 / 2000
    schedule = instantiate(cfg.lr_multiplier)
    assert schedule(799 / 2000) == 1.0
    assert schedule(801 / 2000) == pytest.approx(0.1)
    assert schedule(50 / 2000) == pytest.approx(0.5)  # half of the 100 iterations of warm-up


def test_a_schedule_can_be_exchanged():
    name = f"{CosineParamScheduler.__module__}.{CosineParamScheduler.__qualname__}"
    override = f"lr_multiplier.scheduler={{_target_: {name}, start_value: 1, end_value: 0.0}}"
    cfg = apply_overrides(make_config(), [override, "lr_multiplier.rescale_interval=true"])
    schedule = instantiate(cfg.lr_multiplier)
    assert schedule(0.1) == pytest.approx(1.0)
    assert schedule(1.0) == pytest.approx(0.0, abs=1e-6)


def test_the_config_given_is_not_changed():
    cfg = make_config()
    new = apply_overrides(cfg, ["train.max_iter=3"])
    assert (cfg.train.max_iter, new.train.max_iter) == (1000, 3)
    assert new.model.backbone.net.norm_layer.keywords == {"eps": 1e-6}
    assert new.model.backbone.net._target_ is ViT
    assert new.model.loss is loss
    assert OmegaConf.is_interpolation(new.train, "eval_period")


def test_a_struct_flag_stays_and_does_not_refuse_parameters():
    cfg = make_config()
    OmegaConf.set_struct(cfg, True)
    cfg = apply_overrides(cfg, ["model.backbone.net.drop_path_rate=0.1"])
    assert instantiate(cfg.model.backbone.net).blocks[1].drop_path.drop_prob == pytest.approx(0.1)
    assert OmegaConf.is_struct(cfg)


def test_no_overrides_is_the_same_config():
    assert OmegaConf.to_container(apply_overrides(make_config(), [])) == OmegaConf.to_container(
        make_config()
    )


CONFIG = make_config()
KNOWN = known_keys(CONFIG)


@st.composite
def typos(draw: st.DrawFn) -> str:
    """A known key with one letter dropped, doubled, changed or swapped with the next."""
    key = draw(st.sampled_from(sorted(KNOWN)))
    i = draw(st.integers(0, len(key) - 1))
    letter = draw(st.sampled_from(string.ascii_letters + "_."))
    new = [key[:i] + key[i + 1 :], key[:i] + key[i] + key[i:], key[:i] + letter + key[i + 1 :]]
    return draw(st.sampled_from([*new, key[:i] + key[i : i + 2][::-1] + key[i + 2 :]]))


@settings(max_examples=60, deadline=None)
@given(key=typos(), value=st.sampled_from(["1", "null", "abc", "{a: 1}"]))
def test_a_typo_never_passes(key: str, value: str):
    if key in KNOWN:
        return
    with pytest.raises(UserError):
        apply_overrides(CONFIG, [f"{key}={value}"])


@settings(max_examples=60, deadline=None)
@given(value=st.one_of(st.booleans(), st.integers(1, 10**12), st.floats(allow_nan=False)))
def test_scalars_come_back(value: bool | int | float):
    key = {bool: "train.amp.enabled", int: "train.max_iter", float: "train.ratio"}[type(value)]
    text = {float("inf"): ".inf", float("-inf"): "-.inf"}.get(value, str(value))
    back = overridden(f"{key}={text}")
    assert back == value
    assert type(back) is type(value)


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1))
def test_text_comes_back(text: str):
    text = text.strip()
    if "$" in text or text[:1] in "'\"" or text in ("null", "Null", "NULL", "~", "???"):
        return  # these have a meaning of their own
    assert overridden(f"train.output_dir={text}") == text
