"""Configs of runs as plain values, compared with their base."""

import pytest

from rmae_d2.config import config_root, get_config, save_config
from rmae_d2.errors import UserError
from rmae_d2.report.run_config import (
    Difference,
    compare,
    find_base,
    read_base,
    read_config,
)


@pytest.mark.parametrize(
    "text, said",
    [
        ("a: [", "not YAML"),
        ("- 1", "it has no keys"),
        ("", "it has no keys"),
        ("a: \xe9", "not YAML"),
        ("a: &a [*a]", "nested deeper than 40"),
        ("a: " + "[" * 50 + "]" * 50, "nested deeper than 40"),
        ("a: " + "[" * 900, "not YAML"),
        ("a: " + "x" * (1 << 20), "over 1 MiB"),
    ],
    ids=["cut", "list", "empty", "latin-1", "in itself", "deep", "too deep to read", "large"],
)
def test_no_config(tmp_path, text, said):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=said) as error:
        read_config(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_values(tmp_path):
    path = tmp_path / "config.yaml"
    assert read_config(path) is None
    path.write_text(
        "model: {_target_: a.b.RMAE, decoder: null, branch: {x: 1}}\n"
        "steps: [1, 2]\nparts: [{x: 1}, {x: 2}]\n"
        "call: !!python/object/apply:os.mkdir [/tmp/never]\nname: !!python/name:os.system ''\n"
    )
    config = read_config(path)
    assert config.target("model") == "RMAE" and config.target("model.decoder") == ""
    assert config.has("model.branch") and not config.has("model.decoder")
    assert config.get("steps") == [1, 2] and config.get("parts.1.x") == 2
    assert config.get("call") == ["/tmp/never"] and config.get("name") == "os.system"
    assert config.get("absent", 3) == 3


def test_compared_with_its_base(tmp_path):
    cfg = get_config("demo/rmae_tiny_scenes.py")
    save_config(cfg, tmp_path / "same.yaml")
    base = read_base(config_root() / "demo/rmae_tiny_scenes.py")
    assert compare(base, read_config(tmp_path / "same.yaml")) == []
    cfg.train.max_iter, cfg.train.seed, cfg.train.new = 7, None, "x"
    del cfg.train.vis_period
    save_config(cfg, tmp_path / "other.yaml")
    assert compare(base, read_config(tmp_path / "other.yaml")) == [
        Difference("train.max_iter", "450", "7"),
        Difference("train.new", None, "x"),
        Difference("train.seed", "0", "null"),
        Difference("train.vis_period", "150", None),
    ]


def test_a_base_that_does_not_load(tmp_path):
    (tmp_path / "mine.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match=r"mine\.py.*division"):
        read_base(tmp_path / "mine.py")


@pytest.mark.parametrize(
    "name, found",
    [
        ("configs/demo/rmae_tiny_scenes.py", True),
        ("demo/rmae_tiny_scenes.py", True),
        ("/elsewhere/snapshot/configs/demo/rmae_tiny_scenes.py", True),
        ("rmae_tiny_scenes.py", False),
        ("/elsewhere/mine.py", False),
        ("configs/../configs/demo/rmae_tiny_scenes.py", False),
        ("output/config.yaml", False),
        ("", False),
    ],
)
def test_finding_the_base(name, found):
    assert find_base(name) == (config_root() / "demo/rmae_tiny_scenes.py" if found else None)
