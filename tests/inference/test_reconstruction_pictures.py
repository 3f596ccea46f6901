"""Photos through a model of a finished run, with and without regions."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from rmae_d2.config import get_config
from rmae_d2.errors import UserError
from rmae_d2.inference import reconstruction_pictures
from rmae_d2.inference.finished_run import load_run
from rmae_d2.inference.reconstruction_pictures import draw_reconstruction_pictures, region_source
from tests.helpers import write_coco

MAE = ["region_branch=null", "backbone.net.img_size=48"]
SIZE = "model.backbone.net.img_size=[32,48]"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two instances in the first photo, none in the others."""
    return write_coco(tmp_path_factory.mktemp("photos"), [(0, 10, 10, 50, 60), (0, 80, 40, 70, 70)])


def draw(run, photos, output, source="fh", **arguments):
    source = region_source(source, json=str(photos / "labels.json"))
    given = [str(photos / "a.png"), str(photos / "b.png")]
    return draw_reconstruction_pictures([run], given, output, source, **arguments)


def test_rmae(make_run, photos, tmp_path):
    run = make_run(SIZE)
    ratios = [0.5, 0.75]
    written = draw(run, photos, tmp_path / "one", "json", mask_ratios=ratios, seed=3)
    assert [path.name for path in written] == ["a.png", "b.png", "contact_sheet.png"]
    # Four columns; the second photo has no region, only the pixels of two ratios.
    with_two, with_none = (np.asarray(Image.open(path)) for path in written[:2])
    assert with_two.shape[1] == with_none.shape[1] == 4 * 224 + 5 * 6
    assert len(with_two) > 6 * 140 and len(with_none) < 3 * 224
    again = draw(run, photos, tmp_path / "two", "json", mask_ratios=[0.5, 0.75], seed=3)
    assert [p.read_bytes() for p in written] == [p.read_bytes() for p in again]
    source = region_source("json", json=str(photos / "labels.json"))
    # A json's own ids count; those of files and folders do not.
    given = [str(photos / "labels.json")]
    where = ([run], given, tmp_path / "four", source)
    by_json, *_ = draw_reconstruction_pictures(*where, mask_ratios=ratios, seed=3)
    assert by_json.read_bytes() == written[0].read_bytes()
    other = draw(run, photos, tmp_path / "three", "json", mask_ratios=[0.5, 0.75], seed=4)
    assert written[0].read_bytes() != other[0].read_bytes()


@pytest.mark.parametrize(
    ("overrides", "columns"),
    [
        (["model.region_branch=null", "dataloader.train.mapper.regions=null"], 3),
        (["model.pixel_decoder=null"], 6),
    ],
    ids=["MAE", "RAE"],
)
def test_mae_and_rae(make_run, photos, tmp_path, overrides, columns):
    *_, sheet = draw(make_run(SIZE, *overrides), photos, tmp_path)
    assert Image.open(sheet).width == columns * 160 + (columns + 1) * 6


@pytest.mark.parametrize(("ratio", "feeding"), [(0, "region_to_pixel"), (1, "pixel_to_region")])
def test_regions_that_are_input_or_target_only(make_run, photos, tmp_path, ratio, feeding):
    overrides = [f"model.region_branch.mask_ratio={ratio}", f"model.feeding={feeding}"]
    *_, sheet = draw(make_run(SIZE, *overrides), photos, tmp_path)
    assert Image.open(sheet).width == 7 * 160 + 8 * 6


def test_what_the_model_is_given(make_run, photos, monkeypatch):
    """The middle of the photo; unlike regions first, then the others; nested masks."""
    _, model = load_run(make_run(SIZE))
    photo = {"file_name": str(photos / "a.png")}
    image, record = reconstruction_pictures._centre(model, photo, region_source("fh"))
    whole = np.asarray(Image.open(photos / "a.png"))
    # 160 x 120 pixels for 48 x 32: 106 or 107 rows of 120.
    middle = Image.fromarray(whole[6:113]).resize((48, 32), Image.Resampling.BICUBIC)
    assert image.shape == (32, 48, 3) and record.size == (32, 48)
    assert np.abs(image.astype(int) - np.asarray(middle)).mean() < 3
    cfg = get_config("demo/rmae_tiny_scenes.py")
    shown, given = reconstruction_pictures._choose(record, model, cfg, 3)
    assert len(given) == 8 and np.array_equal(given[: len(shown)], shown)
    for k in range(len(shown)):
        for other in range(k):
            assert (shown[k] & shown[other]).sum() < 0.5 * (shown[k] | shown[other]).sum()
    sample = {"image": torch.from_numpy(image.transpose(2, 0, 1).copy()), "mask_seed": 5}
    sample["regions"] = torch.from_numpy(given)
    few, many = (reconstruction_pictures._predict(model, sample, r)["mask"] for r in (0.5, 0.75))
    assert few.sum() == 12 and many.sum() == 18 and not (few & ~many).any()


def test_errors(make_run, photos, tmp_path):
    run = make_run(SIZE)
    with pytest.raises(UserError, match="mask_ratio=1.5"):
        draw(run, photos, tmp_path, mask_ratios=[1.5])
    with pytest.raises(UserError, match="--regions sam needs --sam-model"):
        region_source("sam")
    with pytest.raises(UserError, match=r"nowhere\.json"):
        region_source("json", json=str(tmp_path / "nowhere.json"))
    content = json.loads((photos / "labels.json").read_text())
    content["images"] = content["images"][1:]
    content["annotations"] = [{**a, "image_id": 1} for a in content["annotations"]]
    (tmp_path / "other.json").write_text(json.dumps(content))
    source = region_source("json", json=str(tmp_path / "other.json"))
    with pytest.raises(UserError, match=r"the regions of .*a\.png: .* has no image"):
        draw_reconstruction_pictures([run], [str(photos / "a.png")], tmp_path, source)


def test_models_below_each_other(make_run, photos, tmp_path):
    """Of other sizes and kinds; each row has its model's name, each model its own ratio."""
    small, mae = make_run(SIZE), make_run(*(f"model.{x}" for x in MAE))
    source = region_source("json", json=str(photos / "labels.json"))
    given = [str(photos / "a.png")]

    def pictures(folder, names=(), weights=(small, mae)):
        drawn = draw_reconstruction_pictures(weights, given, tmp_path / folder, source, names=names)
        return [np.asarray(Image.open(path)) for path in drawn]

    photo, sheet = pictures("both", ["one", "other"])
    alone, own = pictures("one", weights=[small])
    assert sheet.shape[1] == own.shape[1] == 7 * 160 + 8 * 6
    # Two regions of the first model, then the second's square of pixels.
    assert photo.shape[1] == alone.shape[1] and 224 < len(photo) - len(alone) < 280
    renamed, _ = pictures("renamed", ["one", "another"])
    assert renamed.shape == photo.shape
    rows = np.flatnonzero((renamed != photo).any(axis=(1, 2)))
    assert len(alone) - 80 < rows[0] and rows[-1] - rows[0] < 20  # the second's title alone
    with pytest.raises(UserError, match="--names: 1 given for 2 weight files"):
        pictures("no", ["one"])
    with pytest.raises(UserError, match="--config-file x.yaml with several --weights"):
        draw_reconstruction_pictures((small, mae), given, tmp_path, source, config_file="x.yaml")


def test_the_worst_are_those_of_the_largest_loss(make_run, photos, tmp_path, monkeypatch):
    run = make_run(SIZE)
    losses = {}
    predict = reconstruction_pictures._predict

    def watch(model, sample, ratio):
        output = predict(model, sample, ratio)
        losses["ab"[len(losses)]] = float(output["loss_region"])
        return output

    monkeypatch.setattr(reconstruction_pictures, "_predict", watch)
    everything = draw(run, photos, tmp_path / "all", seed=3)
    order = sorted(losses, key=losses.get, reverse=True)
    losses.clear()
    both = draw(run, photos, tmp_path / "both", seed=3, worst=2)
    assert [path.stem for path in both] == [*order, "contact_sheet"]
    losses.clear()
    one = draw(run, photos, tmp_path / "one", seed=3, worst=1)
    assert [path.stem for path in one] == [order[0], "contact_sheet"]
    # A photo's picture does not depend on which others are drawn.
    same = next(path for path in everything if path.stem == order[0])
    assert one[0].read_bytes() == same.read_bytes()
