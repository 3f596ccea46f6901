"""What is said of a data set that is not there."""

import pytest

from rmae_d2.annotations.missing import missing_dataset, unknown_dataset


@pytest.mark.parametrize(
    "name, source",
    [
        ("coco_2017_val", "/zips/val2017.zip"),
        ("coco_2017_val_100", "instances_val2017_100.json"),  # the longest beginning counts
        ("coco_2014_train", "annotations_trainval2014.zip"),
        ("lvis_v1_train", "lvis_v1_train.json.zip"),
        ("ade20k_sem_seg_val", "ADEChallengeData2016.zip"),
        ("imagenet_1k_train", "https://image-net.org"),
        ("scenes_val", "rmae-d2 scenes"),
    ],
)
def test_places_and_where_to_get_it(tmp_path, monkeypatch, name, source):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/sets")
    text = str(missing_dataset(name, [str(tmp_path / "a.json")], "json=FILE", "no such file"))
    for part in (name, str(tmp_path / "a.json"), "(no such file)", "= /sets", "json=FILE", source):
        assert part in text
    assert text.count("get it:") == (
        1 if name.split("_")[0] in ("ade20k", "imagenet", "scenes") else 2
    )


def test_others_have_no_source(monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    text = str(missing_dataset("mine", [], "json=FILE"))
    assert "get it:" not in text and "not set, so ./datasets" in text


def test_unknown_names_have_the_nearest():
    text = str(unknown_dataset("coco_2017_vall", ["coco_2017_val", "scenes_val"]))
    assert "no dataset is registered as 'coco_2017_vall': did you mean coco_2017_val?" in text
    assert "for own data set dataset.json" in str(unknown_dataset("zzz", ["coco_2017_val"]))
