import pytest
import torch

from rmae_d2.evaluation import ForegroundEvaluator
from rmae_d2.regions import pack_bits


@pytest.fixture
def evaluator():
    made = ForegroundEvaluator()
    made.reset()
    return made


def sample(*maps):
    maps = torch.stack(maps)
    return {"regions": torch.from_numpy(pack_bits(maps.numpy())), "num_regions": len(maps)}


def rows(start, stop, size=(32, 48)):
    there = torch.zeros(size, dtype=torch.bool)
    there[start:stop] = True
    return there


def hidden(*patches, L=24):
    mask = torch.zeros(L, dtype=torch.bool)
    mask[list(patches)] = True
    return mask


def test_shares_by_hand(evaluator):
    """Patches of 8 pixels, a grid of 4 x 6; means are over images, not over patches."""
    # Rows 4 to 19 of two regions: patch rows 0 (half), 1 and, 3 of 8 pixel rows, not 2: 12 of 24.
    uneven = torch.zeros(24)
    uneven[:3] = torch.tensor([0.5, 0.25, 0.125])
    uneven[20] = 0.125
    first = {"mask": hidden(0, 7, 12, 23), "mask_probability": uneven}
    evaluator.process([sample(rows(4, 12), rows(8, 19))], [first])
    assert evaluator.evaluate() == {
        "masking": {
            "hidden_foreground": 0.5,
            "all_foreground": 0.5,
            "chosen_foreground": 0.875,
            "foreground_ratio": 1.0,
        }
    }
    second = {"mask": hidden(0, 1, 2, 23), "mask_probability": torch.full((24,), 1 / 24)}
    evaluator.process([sample(rows(0, 8))], [second])
    report = evaluator.evaluate()["masking"]
    assert report["hidden_foreground"] == pytest.approx((0.5 + 0.75) / 2)
    assert report["all_foreground"] == pytest.approx((0.5 + 0.25) / 2)
    assert report["chosen_foreground"] == pytest.approx((0.875 + 0.25) / 2)
    assert report["foreground_ratio"] == pytest.approx(0.625 / 0.375)
    # The first's on the second's objects, patches 0 to 5, and the second's on the first's, 0 to 11.
    assert report["hidden_elsewhere"] == pytest.approx((1 / 4 + 3 / 4) / 2)
    assert report["chosen_elsewhere"] == pytest.approx((0.875 + 0.5) / 2)


def test_what_position_explains(evaluator):
    """Hiding the same place everywhere is no better than on other images' objects; following them is."""
    objects = [rows(8 * i, 8 * i + 8) for i in range(4)]
    for there in objects:
        evaluator.process([sample(there)], [{"mask": hidden(*range(6))}])
    report = evaluator.evaluate()["masking"]
    assert report["hidden_foreground"] == pytest.approx(report["all_foreground"]) == 0.25
    assert report["hidden_elsewhere"] == pytest.approx(0.25)
    evaluator.reset()
    for i, there in enumerate(objects):
        evaluator.process([sample(there)], [{"mask": hidden(*range(6 * i, 6 * i + 6))}])
    report = evaluator.evaluate()["masking"]
    assert (report["hidden_foreground"], report["hidden_elsewhere"]) == (1, 0)


def test_images_that_say_nothing_are_left_out(evaluator):
    for maps in (rows(0, 0), rows(0, 32)):
        evaluator.process([sample(maps)], [{"mask": hidden(0)}])
    assert evaluator.evaluate() == {"masking": {}}
    evaluator.process([sample(rows(0, 8))], [{"mask": hidden(0, 23)}])
    report = evaluator.evaluate()["masking"]
    assert report == {"hidden_foreground": 0.5, "all_foreground": 0.25, "foreground_ratio": 2.0}


def test_samples_without_objects_are_refused(evaluator):
    with pytest.raises(ValueError, match="dataloader.test.mapper.regions, an InstanceSource"):
        evaluator.process([{}], [{"mask": hidden(0)}])
