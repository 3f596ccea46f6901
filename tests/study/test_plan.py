import pytest

from rmae_d2.config import apply_overrides, load_config
from rmae_d2.errors import UserError
from rmae_d2.study.plan import load_study, runs_of, stages_by_name, weights_of
from rmae_d2.study.records import commands

STUDY = """
study = dict(
    name="tiny", data="data", output="{output}", seeds=2,
    methods=[
        dict(name="mae", label="MAE", config="study/mae.py", views=200),
        dict(name="auto", label="AutoMAE", config="study/automae.py", baselines=["mae"], seeds=1,
             views=100, overrides=["model.masking.generator.scorer.weights={{mae}}",
                                   "dataloader.train.total_batch_size=32"]),
    ],
    transfers=[dict(name="linear", label="probe", config="study/linear.py")],
    metrics=[dict(stage="linear", name="sem_seg/mIoU", label="mIoU")],
)
"""


@pytest.fixture
def config(tmp_path):
    def write(change=lambda text: text):
        path = tmp_path / "tiny.py"
        path.write_text(change(STUDY.format(output=tmp_path / "out")))
        return str(path)

    return write


def test_every_method_runs_with_every_seed_and_its_transfers_begin_with_its_weights(
    config, tmp_path
):
    runs = runs_of(load_study(config()))
    assert [(run.values["method"], run.seed) for run in runs] == [
        ("mae", 0),
        ("auto", 0),
        ("mae", 1),
    ]
    mae, auto, _ = runs
    out = tmp_path / "out"
    assert [stage.folder for stage in mae.stages] == [out / "mae-seed0", out / "mae-seed0-linear"]
    assert mae.stages[1].words(1)[:3] == ["train", "--config-file", "study/linear.py"]
    assert f"train.init_checkpoint={out}/mae-seed0/model_final.pth" in mae.stages[1].opts
    # What a method begins with is trained before it, with the same seed; its own are the last two.
    assert [stage.folder.name for stage in auto.stages] == [
        "mae-seed0",
        "auto-seed0",
        "auto-seed0-linear",
    ]
    assert auto.stages[0] == mae.stages[0]
    scorer = f"model.masking.generator.scorer.weights={out}/mae-seed0/model_final.pth"
    assert scorer in auto.stages[1].opts
    assert weights_of(auto) == out / "auto-seed0" / "model_final.pth"
    assert list(stages_by_name(auto)) == ["pretrain", "linear"]


def test_commands_do_not_depend_on_where_the_study_runs(config, tmp_path):
    here = runs_of(load_study(config()))[1]
    there = runs_of(load_study(config(lambda text: text.replace("/out", "/other"))))[1]
    assert here.folder != there.folder and commands(here) == commands(there)
    assert commands(here)["pretrain"] == (
        "rmae-d2 train --config-file study/automae.py model.masking.generator.scorer.weights="
        "mae-seed0/model_final.pth dataloader.train.total_batch_size=32 train.max_iter=3 "
        "train.eval_period=3 train.seed=0"
    )


def test_some_methods_and_seeds_may_be_chosen(config):
    study = load_study(config())
    runs = runs_of(study, ["mae"], [1])
    assert [(run.values["method"], run.seed) for run in runs] == [("mae", 1)]
    with pytest.raises(UserError, match=r"no method 'mea'.*did you mean mae"):
        runs_of(study, ["mea"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "seeds=1,",
            'transfers=["lineal"],',
            r"auto names the transfer 'lineal'.*did you mean linear",
        ),
        (
            'baselines=["mae"]',
            'baselines=["mea"]',
            r"auto names the method 'mea'.*did you mean mae",
        ),
        ('baselines=["mae"]', 'baselines="mae"', r"baselines is the text 'mae'.*\['mae'\]"),
        ("seeds=2,", 'seeds=2, overrides="a=1",', r"overrides is the text 'a=1'"),
        ("{mae}", "{rmae}", "auto names the method 'rmae'"),
        ('name="auto"', 'name="mae"', "methods has 'mae' twice"),
        ("seeds=2", "seedz=2", "unexpected keyword argument 'seedz'"),
        ('label="probe"', 'lable="probe"', "unexpected keyword argument 'lable'"),
        ("metrics=", "metricz=", "the study has no 'metrics'"),
        ("study = dict(", "studio = dict(", "has no study in it"),
    ],
)
def test_a_study_that_cannot_be_is_refused(config, old, new, message):
    with pytest.raises(UserError, match=message):
        load_study(config(lambda text: text.replace(old, new)))


def test_overrides_are_checked_before_anything_runs(config):
    study = load_study(config(lambda text: text.replace("total_batch_size", "total_batch_sise")))
    with pytest.raises(UserError, match=r"total_batch_sise"):
        runs_of(study)


def test_views_are_counted_in_the_configs_batches_and_none_are_one_step_without_learning(config):
    mae = runs_of(load_study(config()))[0].stages[0]
    assert "train.max_iter=3" in mae.overrides  # 200 / 64
    none = load_study(config(lambda text: text.replace("views=200", "views=0")))
    mae = runs_of(none)[0].stages[0]
    assert {"train.max_iter=1", "optimizer.base_lr=0"} <= set(mae.overrides)


def test_a_study_may_change_all_its_methods(config):
    more = 'seeds=2, times=4, overrides=["dataloader.train.total_batch_size=50"],'
    runs = runs_of(load_study(config(lambda text: text.replace("seeds=2,", more))))
    steps = {run.values["method"]: run.stages[-2].overrides for run in runs}
    # A method's own batch counts more.
    assert "train.max_iter=16" in steps["mae"] and "train.max_iter=12" in steps["auto"]


@pytest.mark.parametrize("name", ["study/scenes.py", "study/scenes_gpu.py", "study/photos.py"])
def test_the_transfers_of_the_studies_take_what_the_methods_leave(name):
    """The networks of all configs, as they will be run, have encoders of one size."""
    study = load_study(name)
    sizes = set()
    for run in runs_of(study, seeds=[0]):
        for stage in run.stages:
            cfg = apply_overrides(load_config(stage.config_file), list(stage.overrides))
            net = cfg.model.backbone.net
            sizes.add((net.embed_dim, net.depth, net.num_heads))
            if "vitdet" not in stage.config_file:
                sides = (cfg.model.get("window", net.img_size), net.img_size, net.patch_size)
                assert sides in {(96, 96, 12), (128, 128, 16), (224, 224, 14)}
    assert len(sizes) == 1


def test_the_study_of_the_scenes_is_consistent():
    study = load_study("study/scenes.py")
    runs = runs_of(study)
    assert len(runs) == 21 * 3 + 5
    stages = {"pretrain", "attention", *(transfer.name for transfer in study.transfers)}
    assert {metric.stage for metric in study.metrics} <= stages
    long = [run for run in runs if run.values["method"] == "mae_long"]
    # Pre-training, probe, two shares of the labels.
    assert [len(run.stages) for run in long] == [4] * 3
