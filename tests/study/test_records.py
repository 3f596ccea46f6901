import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from rmae_d2.errors import UserError
from rmae_d2.study.page import BEGIN, END, lines_over_views, write_page
from rmae_d2.study.plan import (
    Method,
    Metric,
    Regions,
    RegionSource,
    Scenes,
    Study,
    Transfer,
    load_study,
    runs_of,
)
from rmae_d2.study.records import Records, commands, measure_region_sources, values
from tests.helpers import ROOT, write_coco

STUDY = Study(
    name="tiny",
    data="data",
    output="out",
    seeds=3,
    methods=[
        Method("mae", "MAE", "study/mae.py", 96000, group="short"),
        Method("rmae", "R-MAE", "study/rmae.py", 96000, group="short", baselines=["mae"]),
        Method("late", "late", "study/mae.py", 96000, group="long", seeds=1),
    ],
    transfers=[Transfer("linear", "probe", "study/linear.py")],
    metrics=[
        Metric("linear", "sem_seg/mIoU", "mIoU"),
        Metric("linear", ["sem_seg/IoU-car", "sem_seg/IoU-fish"], "objects"),
        Metric("pretrain", "reconstruction/region_iou", "regions", scale=100, digits=2),
    ],
    scenes=Scenes(4, 2, 0),
)

MIOU = {("mae", 0): 20.0, ("mae", 1): 21.0, ("mae", 2): 22.0}
MIOU |= {("rmae", 0): 22.0, ("rmae", 1): 23.1, ("rmae", 2): 23.9}


def record(method, seed, miou, run):
    results = {
        "linear": {"sem_seg/mIoU": miou, "sem_seg/IoU-car": 10.0 + seed, "sem_seg/IoU-fish": 20.0}
    }
    if method == "rmae":
        results["pretrain"] = {"reconstruction/region_iou": 0.5 + 0.01 * seed}
    facts = {
        "method": method,
        "seed": seed,
        "views": 96000,
        "seconds": 1800,
        "commands": commands(run),
    }
    return {**facts, "results": results}


@pytest.fixture
def filled(tmp_path):
    records = Records(tmp_path / "study.json", STUDY)
    runs = {(run.values["method"], run.seed): run for run in runs_of(STUDY)}
    for key, miou in MIOU.items():
        records.add(record(*key, miou, runs[key]))
    return records, runs


def test_records_outlive_the_folders_and_say_which_runs_are_left(filled):
    records, runs = filled
    again = Records(records.path, STUDY)
    assert {key for key, run in runs.items() if again.of(run)} == set(MIOU)
    assert again.of(runs["rmae", 1])["results"]["linear"]["sem_seg/mIoU"] == 23.1
    lines = records.path.read_text().splitlines()
    assert sum('"method"' in line for line in lines) == 6  # one line each
    assert json.loads(records.path.read_text())["study"] == "tiny"


def test_a_record_of_other_commands_does_not_count_and_is_replaced(filled, caplog):
    records, runs = filled
    old = {
        **records.of(runs["mae", 0]),
        "commands": {"pretrain": "rmae-d2 train --config-file other.py"},
    }
    records.add(old)
    assert records.of(runs["mae", 0]) is None
    assert "mae, seed 0 is of other commands; it is to run again" in caplog.text
    records.add(record("mae", 0, 1.0, runs["mae", 0]))
    assert records.of(runs["mae", 0])["results"]["linear"]["sem_seg/mIoU"] == 1.0
    assert len(records.all) == 6


def test_values_are_by_seed_and_several_are_averaged(filled):
    found = filled[0].all
    assert values(found, "mae", "linear", ["sem_seg/mIoU"]) == {0: 20.0, 1: 21.0, 2: 22.0}
    assert values(found, "mae", "linear", ["sem_seg/IoU-car", "sem_seg/IoU-fish"]) == {
        0: 15.0,
        1: 15.5,
        2: 16.0,
    }
    assert values(found, "mae", "pretrain", ["reconstruction/region_iou"]) == {}


def test_the_page_has_the_values_the_differences_and_what_is_missing(filled, tmp_path):
    page = tmp_path / "study.md"
    page.write_text(f"# Mine\n\nbefore\n\n{BEGIN}\nold\n{END}\nafter\n")
    files = write_page(STUDY, filled[0], page)
    assert [file.name for file in files] == ["study.md", "study.png"]
    text = page.read_text()
    assert (
        text.startswith("# Mine\n\nbefore\n")
        and text.endswith(f"{END}\nafter\n")
        and "old" not in text
    )
    assert "6 of 7 runs are in; their pre-training took 3.0 hours" in text
    assert "Not run yet: late (long) 0 of 1." in text
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if "|" in line
    ]
    assert ["MAE", "96,000", "3", "21.0 ± 1.0", "15.5 ± 0.5", "-"] in rows
    assert ["R-MAE", "96,000", "3", "23.0 ± 1.0", "15.5 ± 0.5", "51.00 ± 1.00"] in rows
    # By seed 2.0, 2.1, 1.9: there by both intervals, so bold. Objects do not differ.
    difference = next(row for row in rows if row[:2] == ["R-MAE", "MAE"])
    assert difference[2] == "**+2.0 [+1.9, +2.1]**" and difference[3] == "+0.0 [+0.0, +0.0]"
    # No difference of regions: MAE has none. A column that nothing stands in is left out.
    assert len(difference) == 4


def test_a_method_is_compared_with_each_of_its_baselines(filled, tmp_path):
    mae, rmae, late = STUDY.methods
    study = replace(STUDY, methods=[mae, replace(rmae, baselines=["late", "mae"]), late])
    records = Records(filled[0].path, study)
    for seed, value in enumerate([19.0, 19.5, 20.0]):
        results = {"linear": {"sem_seg/mIoU": value}}
        records.add({**records.all[0], "method": "late", "seed": seed, "results": results})
    write_page(study, records, tmp_path / "study.md")
    text = (tmp_path / "study.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in text.splitlines()]
    assert ["R-MAE", "late", "**+3.5 [+3.1, +3.8]**"] in rows
    assert ["R-MAE", "MAE", "**+2.0 [+1.9, +2.1]**"] in rows
    assert not any(row[:2] == ["MAE", "MAE"] for row in rows)


def test_methods_of_one_line_are_joined_over_their_views(filled, tmp_path):
    mae, rmae, late = STUDY.methods
    lines = [replace(mae, line="MAE"), rmae, replace(late, line="MAE")]
    study = replace(STUDY, methods=lines)
    records = Records(filled[0].path, study)
    results = {"linear": {"sem_seg/mIoU": 25.0}}
    records.add({**records.all[0], "method": "late", "views": 192000, "results": results})
    (first, second) = lines_over_views(study, records.all)["MAE"]
    assert first == pytest.approx((96, 21, 1)) and second[:2] == (192, 25)
    assert math.isnan(second[2])  # of one seed
    files = write_page(study, records, tmp_path / "study.md")
    assert [file.name for file in files] == ["study.md", "study.png", "study_views.png"]
    assert "![mIoU over the views of pre-training](study_views.png)" in files[0].read_text()


def test_region_sources_are_compared_on_the_page(tmp_path):
    """Two rectangles per photo: the instances themselves, and SLIC."""
    (tmp_path / "photos").mkdir()
    folder = write_coco(tmp_path / "photos", [(i, 20, 30, 60, 50) for i in (0, 1, 2)])
    own = RegionSource("instances", "instances", {"json_file": str(folder / "labels.json")})
    sources = [own, RegionSource("SLIC", "slic", {"segments": [4]})]
    regions = Regions("photos/labels.json", "photos", sources, max_images=2)
    study = replace(STUDY, data=str(tmp_path), regions=regions)
    Records(tmp_path / "study.json", study).set_regions(measure_region_sources(study))
    records = Records(tmp_path / "study.json", study)
    found = records.regions["sources"]
    assert found["instances"]["best_iou"] == 1 and found["instances"]["instances"] == 2
    assert 0 < found["SLIC"]["best_iou"] < 1
    page = tmp_path / "study.md"
    write_page(study, records, page)
    assert "### Region sources" in page.read_text() and "| instances |" in page.read_text()
    with pytest.raises(UserError, match="compares no region sources"):
        measure_region_sources(STUDY)


def test_a_page_without_marks_is_left_alone(filled, tmp_path):
    page = tmp_path / "study.md"
    page.write_text("# Mine\n")
    with pytest.raises(UserError, match="to put the tables between"):
        write_page(STUDY, filled[0], page)
    assert page.read_text() == "# Mine\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not the json of a study"),
        ("[]", "is not the json of a study"),
        ('{"study": "tiny", "records": [{"seed": 1}]}', "is not the json of a study: 'method'"),
        ('{"study": "other", "records": []}', "is of the study 'other', not of 'tiny'"),
        (
            '{"study": "tiny", "records": [{"method": "a", "seed": 1}, {"method": "a", "seed": 1}]}',
            "two records of one method and seed",
        ),
    ],
)
def test_a_json_of_something_else_is_refused_and_kept(tmp_path, content, message):
    path = tmp_path / "study.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        Records(path, STUDY)
    assert path.read_text() == content


@pytest.mark.parametrize(
    ("config", "measured", "page"),
    [
        ("study/scenes.py", "study/study.json", "study.md"),
        ("study/photos.py", "study/photos.json", "study/photos.md"),
    ],
)
def test_the_page_in_docs_is_that_of_its_records(config, measured, page, tmp_path, monkeypatch):
    monkeypatch.setenv("STUDY_WEIGHTS", "weights/vits14.safetensors")  # as in the records
    study = load_study(config)
    records = Records(ROOT / "docs" / measured, study)
    assert records.all and all(records.of(run) for run in _recorded(study, records))
    made = tmp_path / f"{Path(page).stem}.md"
    made.write_text((ROOT / "docs" / page).read_text())
    write_page(study, records, made)
    assert made.read_text() == (ROOT / "docs" / page).read_text()


def _recorded(study, records):
    keys = {(record["method"], record["seed"]) for record in records.all}
    return [run for run in runs_of(study) if (run.values["method"], run.seed) in keys]
