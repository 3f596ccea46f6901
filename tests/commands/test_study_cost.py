from rmae_d2.commands.benchmarks.study import measure_cost
from rmae_d2.config import apply_overrides, load_config
from rmae_d2.modeling.analysis import analyze_config
from rmae_d2.study.page import cost_table
from rmae_d2.study.plan import Method, Study
from rmae_d2.study.records import Records

SMALL = [f"model.backbone.net.{word}" for word in ("embed_dim=24", "depth=1", "num_heads=2")]


def test_methods_cost_what_their_networks_do(tmp_path):
    study = Study(
        name="tiny",
        data="data",
        output="out",
        seeds=1,
        overrides=SMALL,
        methods=[
            Method("mae", "MAE", "study/mae.py", 64),
            Method("more", "MAE, longer", "study/mae.py", 128),
            Method("rmae", "R-MAE", "study/rmae.py", 64),
            Method(
                "few",
                "R-MAE, 2 regions",
                "study/rmae.py",
                64,
                ["dataloader.train.mapper.num_regions=2"],
            ),
            Method(
                "auto",
                "AutoMAE",
                "study/automae.py",
                64,
                ["model.masking.generator.scorer.weights={mae}"],
            ),
            Method("long", "MAE", "study/mae.py", 256),
            Method("random", "random weights", "study/mae.py", 0),
            Method("supervised", "supervised", "study/supervised.py", 64),
        ],
        transfers=[],
        metrics=[],
    )
    cost = measure_cost(study, rounds=1)
    assert set(cost) == {
        "mae",
        "more",
        "rmae",
        "few",
        "long",
        "random",
    }  # neither what needs weights nor what is not an RMAE
    assert cost["more"] == cost["mae"]  # the same step
    analysis = analyze_config(apply_overrides(load_config("study/rmae.py"), SMALL))
    assert cost["rmae"]["gmacs"] == round(sum(analysis.macs.values()) / 1e9, 4)
    assert (
        cost["rmae"]["parameters"] == sum(analysis.parameters.values()) > cost["mae"]["parameters"]
    )
    assert cost["mae"]["gmacs"] < cost["few"]["gmacs"] < cost["rmae"]["gmacs"]
    assert all(of["views_per_second"] > 0 for of in cost.values())
    records = Records(tmp_path / "study.json", study)
    records.set_cost(cost)
    table = cost_table(study, Records(tmp_path / "study.json", study))
    # One row for the two named MAE, none for what does not train.
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        "MAE",
        "MAE, longer",
        "R-MAE",
        "R-MAE, 2 regions",
    ]
