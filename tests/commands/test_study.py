"""A study of two methods, run for real: processes, records, page."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.helpers import ROOT

STUDY = """
small = ["dataloader.train.total_batch_size=4", "dataloader.train.num_workers=0", "train.log_period=1"]
study = dict(
    name="tiny", data="data", output="out", seeds=1,
    attention=dict(json="scenes/annotations/instances_val.json", root="scenes/val", max_images=4),
    scenes=dict(num_train=24, num_val=8, seed=1),
    methods=[
        dict(name="random", label="random", config="study/rmae.py",
             views=0, overrides=small),
        dict(name="mae", label="MAE", config="study/mae.py", baselines=["random"],
             views=8, overrides=small),
        dict(name="auto", label="AutoMAE", config="study/automae.py", baselines=["mae"],
             views=8, overrides=[*small, "model.masking.generator.scorer.weights={mae}"]),
        dict(name="supervised", label="supervised", config="study/supervised.py", baselines=["mae"],
             views=8, overrides=small),
    ],
    transfers=[
        dict(name="linear", label="probe", config="study/linear.py",
             overrides=[*small, "train.max_iter=2", "train.eval_period=2", "dataloader.knn.period=2",
                        "dataloader.knn.bank.dataset.fraction=0.5"]),
        dict(name="vitdet", label="ViTDet", config="study/vitdet.py",
             overrides=[*small, "train.max_iter=2", "train.eval_period=2",
                        "dataloader.train.dataset.fraction=0.5"]),
    ],
    metrics=[
        dict(stage="linear", name="sem_seg/mIoU", label="mIoU"),
        dict(stage="linear", name="knn_seg/mIoU", label="k-NN"),
        dict(stage="vitdet", name="bbox/AP", label="box AP"),
        dict(stage="attention", name="share", label="attention"),
        dict(stage="pretrain", name="reconstruction/region_iou", label="regions"),
    ],
)
"""


def study(folder, *words):
    command = [sys.executable, "-m", "rmae_d2", "study", "tiny.py", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_study_runs_goes_on_from_its_records_and_makes_its_page(tmp_path):
    (tmp_path / "tiny.py").write_text(STUDY)
    code, said = study(tmp_path, "--methods", "random", "mae")
    assert code == 0, said
    assert "tiny: 2 runs, 0 of them recorded" in said and "[2 of 2] mae, seed 0: recorded" in said
    content = json.loads((tmp_path / "out" / "study.json").read_text())
    records = {record["method"]: record for record in content["records"]}
    assert records["mae"]["views"] == 8 and records["random"]["views"] == 0
    found = records["mae"]["results"]
    assert set(found) == {"pretrain", "linear", "vitdet", "attention"}
    assert (
        0 <= found["linear"]["sem_seg/mIoU"] <= 100 and 0 <= found["linear"]["knn_seg/mIoU"] <= 100
    )
    assert 0 < found["attention"]["share"] < 1 and found["vitdet"]["bbox/AP"] >= 0
    assert 0 <= records["random"]["results"]["pretrain"]["reconstruction/region_iou_instances"] <= 1
    # Nothing was learned at a rate of 0, so k-NN of the same seed's random encoder is that of its checkpoint.
    page = (tmp_path / "out" / "study.md").read_text()
    assert (
        "2 of 4 runs are in" in page and "Not run yet: AutoMAE 0 of 1, supervised 0 of 1." in page
    )

    # On another machine: the records are there, the folders are not. What AutoMAE needs of MAE is made again.
    shutil.rmtree(tmp_path / "out" / "mae-seed0")
    code, said = study(tmp_path, "--jobs", "2")
    assert code == 0, said
    assert "tiny: 4 runs, 2 of them recorded" in said and "[2 of 2]" in said
    again = {
        r["method"]: r for r in json.loads((tmp_path / "out" / "study.json").read_text())["records"]
    }
    assert again["mae"] == records["mae"] and again["random"] == records["random"]
    assert set(again) == {"random", "mae", "auto", "supervised"}
    assert (tmp_path / "out" / "mae-seed0" / "model_final.pth").is_file()
    assert (
        not (tmp_path / "out" / "mae-seed0-linear").exists()
        or records["mae"]["when"] == again["mae"]["when"]
    )
    page = (tmp_path / "out" / "study.md").read_text()
    assert "4 of 4 runs are in" in page and "Not run yet" not in page


def test_a_study_prints_what_is_left_and_names_what_is_wrong(tmp_path):
    (tmp_path / "tiny.py").write_text(STUDY)
    code, said = study(tmp_path, "--print", "--methods", "auto")
    assert code == 0, said
    assert said.count("rmae-d2 train") == 4  # MAE first, then AutoMAE, probe and ViTDet
    code, said = study(tmp_path, "--methods", "rmae")
    assert code == 1 and "error: the study tiny has no method 'rmae'" in said
    assert not (tmp_path / "data").exists()
    assert (ROOT / "configs" / "study" / "scenes.py").is_file()
