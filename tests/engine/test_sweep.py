"""The plan of a sweep: its grid, its folders, and what is left to do of real runs."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.engine.sweep import Run, Stage, folder_name, plan, short_names, split_values
from rmae_d2.errors import UserError

WORD = st.text("abz09._-/$", min_size=1, max_size=6)
QUOTED = st.text("ab, []{}:", max_size=6).flatmap(
    lambda text: st.sampled_from([f"'{text}'", f'"{text}"'])
)
VALUE = st.recursive(
    WORD | QUOTED,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda xs: f"[{','.join(xs)}]")
        | st.dictionaries(WORD, inner, max_size=3).map(
            lambda d: "{" + ", ".join(f"{k}: {v}" for k, v in d.items()) + "}"
        )
    ),
    max_leaves=6,
)


@given(st.lists(VALUE, min_size=1, max_size=4), st.sampled_from([",", ", ", " ,"]))
def test_values_come_apart_at_the_commas_between_them(values, comma):
    assert split_values(comma.join(values)) == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[1,2]", ["[1,2]"]),
        ("[1,2],[3,4]", ["[1,2]", "[3,4]"]),
        ("{a: [1,2], b: 3},null", ["{a: [1,2], b: 3}", "null"]),
        ("it's,one's", ["it's", "one's"]),
        ("${oc.env:A,b},c", ["${oc.env:A,b}", "c"]),
        ("'a,b'", ["'a,b'"]),
        (",a", ["", "a"]),
        ("a]b,[c,d]", ["a]b", "[c,d]"]),
    ],
)
def test_values(text, values):
    assert split_values(text) == values


def test_names_are_as_short_as_they_differ():
    keys = ["model.mask_ratio", "model.region_branch.mask_ratio", "train.max_iter"]
    assert list(short_names(keys).values()) == [
        "model.mask_ratio",
        "region_branch.mask_ratio",
        "max_iter",
    ]
    parts = ["model.masking._target_", "model.masking.pixels._target_", "a.share"]
    assert list(short_names(parts).values()) == ["masking", "pixels", "share"]
    assert list(short_names(["a.b", "a.b._target_"]).values()) == ["b", "_target_"]
    assert list(short_names(["a", "b.a"]).values()) == ["a", "b.a"]


def test_folders_have_names_that_differ():
    assert folder_name({"model.mask_ratio": "0.5", "a.lr": "1e-4"}) == "mask_ratio_0.5-lr_1e-4"
    names = [folder_name({"k": text}) for text in ("a/b", "a b", "a_b", "[1,2]", "", "x" * 300)]
    assert len(set(names)) == len(names) and all(len(name) < 120 for name in names)
    assert all("/" not in name and shlex.quote(name) == name for name in names)


CONFIG = "demo/rmae_tiny_scenes.py"


def test_a_grid_with_seeds_and_a_second_stage(tmp_path):
    words = ["model.mask_ratio=0.5,0.6", "train.seed=4", "model.region_weight", "=", "1,2"]
    runs = plan(CONFIG, words, tmp_path, 2, "demo/vitdet_tiny_scenes.py", ["train.max_iter=5"])
    assert len(runs) == 8 and len({run.folder for run in runs}) == 8
    first, *_, last = runs
    assert first.values == {"model.mask_ratio": "0.5", "model.region_weight": "1"}
    assert [(run.values["model.region_weight"], run.seed) for run in runs[:4]] == [
        ("1", 4),
        ("1", 5),
        ("2", 4),
        ("2", 5),
    ]
    one, two = last.stages
    folder = tmp_path / "mask_ratio_0.6-region_weight_2-seed5"
    assert one.opts == [
        "model.mask_ratio=0.6",
        "model.region_weight=2",
        "train.seed=5",
        f"train.output_dir={folder}",
    ]
    assert two.opts == [
        "train.max_iter=5",
        "train.seed=5",
        f"train.init_checkpoint={folder / 'model_final.pth'}",
        f"train.output_dir={folder}-then",
    ]
    assert last.folder == two.folder and last.left == [one, two] and not last.finished
    expected = ["rmae-d2", "train", "--config-file", CONFIG, "--num-gpus", "8", *one.opts]
    assert shlex.split(last.line(8).partition(" && ")[0]) == expected
    assert list(tmp_path.iterdir()) == []


def test_without_a_swept_key_it_is_a_mean_of_runs(tmp_path):
    runs = plan(CONFIG, ["model.mask_ratio=0.5,0.6", "model.mask_ratio=0.7"], tmp_path, 3)
    assert [run.folder.name for run in runs] == ["seed0", "seed1", "seed2"]
    assert runs[0].stages[0].overrides == ("model.mask_ratio=0.7", "train.seed=0")


@pytest.mark.parametrize(
    ("words", "more", "message"),
    [
        (["model.mask_ratio=0.5,1.5,2"], {}, r"(?s)mask_ratio=1\.5.*mask_ratio=2"),
        (["model.mask_ration=1,2"], {}, "did you mean model.mask_ratio"),
        (["model.mask_ratio=0.5,"], {}, "model.mask_ratio: expected float"),
        (["model.mask_ratio=0.5,0.6,0.5"], {}, "model.mask_ratio: 0.5 is given twice"),
        (["train.seed=1,2"], {}, "--seeds N"),
        (["train.output_dir=x"], {}, "below its --output"),
        ([], {"then_words": ["train.max_iter=2"]}, "--then-set is of --then"),
        ([], {"then": "demo/vitdet_tiny_scnes.py"}, "did you mean demo/vitdet_tiny_scenes.py"),
        ([], {"then": CONFIG, "then_words": ["train.max_itr=2"]}, "--then-set train.max_itr"),
        ([], {"then": CONFIG, "then_words": ["train.init_checkpoint="]}, "follow from the first"),
        (["model.mask_ratio"], {}, "overrides are key=value"),
        (["dataloader.train.dataset.root=a,A"], {}, "would share the folder .*root_A-seed0"),
    ],
)
def test_what_no_run_could_take_is_refused_first(tmp_path, words, more, message):
    with pytest.raises(UserError, match=message):
        plan(CONFIG, words, tmp_path, 1, **more)


@pytest.fixture(scope="module")
def finished(runs, tmp_path_factory):
    """The folder of a sweep, of which one run has finished and one was stopped."""
    output = tmp_path_factory.mktemp("sweep")
    for value, steps in (("0.5", 3), ("0.75", 2)):
        (run,) = plan_of(runs, output, f"model.mask_ratio={value}", at=f"mask_ratio_{value}-seed0")
        runs.train(run.folder, *run.stages[0].overrides, f"train.max_iter={steps}", tiny=False)
    stopped = output / "mask_ratio_0.75-seed0"
    text = (stopped / "run.jsonl").read_text()
    kept = [line for line in text.splitlines() if '"event": "end"' not in line]
    (stopped / "run.jsonl").write_text("\n".join(kept) + "\n")
    return output


def plan_of(runs, output, *words, at=None):
    planned = plan(str(runs.config), [*runs.tiny, *words, "train.max_iter=3"], output, 1)
    if at is None:
        return planned
    (run,) = planned
    return [Run({}, 0, (Stage(run.stages[0].config_file, run.stages[0].overrides, output / at),))]


def test_what_is_left_of_runs(runs, finished):
    text = "model.mask_ratio=0.5,0.9"
    done, other = plan_of(runs, finished, text)
    assert done.finished and done.left == [] and done.line(1) == ""
    assert not other.finished and "--resume" not in other.line(1)
    (done,) = plan_of(runs, finished, text.partition(",")[0] + ",0.6")[:1]
    assert done.finished  # whatever other values there are


def test_another_task_in_a_run_s_folder_is_refused(runs, finished):
    with pytest.raises(
        UserError, match=r"mask_ratio_0.75-seed0: was trained with train.max_iter 2.*to have 3"
    ):
        plan_of(runs, finished, "model.mask_ratio=0.5,0.75")
    machine = ["dataloader.train.num_workers=1", "train.device=auto", "train.vis_period=9"]
    plan_of(runs, finished, "model.mask_ratio=0.5,0.6", *machine)
    with pytest.raises(UserError, match=r"with model.region_weight unset, and is now to have 2"):
        plan_of(runs, finished, "model.mask_ratio=0.5,0.6", "model.region_weight=2")
    words = [*runs.tiny, "model.mask_ratio=0.5,0.6", "train.max_iter=3"]
    with pytest.raises(UserError, match=r"trained with --config-file .*rmae_tiny_scenes"):
        plan("pretrain/rmae_vitb.py", words, finished, 1)


def test_begun_runs_are_resumed(runs, finished):
    words = [*runs.tiny, "train.max_iter=2", "model.mask_ratio=0.6,0.75"]
    _, begun = plan(str(runs.config), words, finished, 1)
    assert begun.stages[0].begun and not begun.finished
    assert "--resume" in begun.line(1).split()
