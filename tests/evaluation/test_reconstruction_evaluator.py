"""The evaluator's numbers against a computation pixel by pixel."""

import numpy as np
import pytest
import torch

from rmae_d2.evaluation import ReconstructionEvaluator, nearest_visible

SIZE, PATCH, K = (32, 48), 8, 10
L = SIZE[0] * SIZE[1] // PATCH**2


def make(images, regions=True):
    samples, outputs = [], []
    for _ in range(images):
        samples.append({"regions": torch.randint(0, 256, (2, *SIZE), dtype=torch.uint8)})
        outputs.append({"loss_pixel": torch.rand(()), "mask": torch.rand(L) < 0.75})
        if regions:
            outputs[-1] |= {
                "loss_region": torch.rand(()),
                "region_mask": torch.rand(L) < 0.6,
                "region_probability": torch.rand(K, *SIZE),
            }
    return samples, outputs


def report(*parts):
    """Of pairs of samples and outputs."""
    evaluator = ReconstructionEvaluator()
    evaluator.reset()
    for samples, outputs in parts:
        evaluator.process(samples, outputs)
    return evaluator.evaluate()["reconstruction"]


def test_numbers_equal_a_hand_computation():
    samples, outputs = make(5)
    found = report((samples[:2], outputs[:2]), (samples[2:], outputs[2:]))
    for name in ("loss_pixel", "loss_region"):
        assert found[name] == pytest.approx(np.mean([o[name].item() for o in outputs]))
    both = either = 0
    for sample, output in zip(samples, outputs, strict=True):
        for k in range(K):
            for y in range(SIZE[0]):
                for x in range(SIZE[1]):
                    if not output["region_mask"][y // PATCH * (SIZE[1] // PATCH) + x // PATCH]:
                        continue
                    truth = bool(int(sample["regions"][k // 8, y, x]) >> (k % 8) & 1)
                    predicted = bool(output["region_probability"][k, y, x] > 0.5)
                    both += truth and predicted
                    either += truth or predicted
    assert found["region_iou"] == pytest.approx(both / either)


def test_mae_has_no_iou_and_reset_forgets():
    evaluator = ReconstructionEvaluator()
    evaluator.reset()
    evaluator.process(*make(3))
    evaluator.reset()
    samples, outputs = make(2, regions=False)
    evaluator.process(samples, outputs)
    found = evaluator.evaluate()["reconstruction"]
    assert found.keys() == {"loss_pixel"}
    assert found["loss_pixel"] == pytest.approx(sum(o["loss_pixel"].item() for o in outputs) / 2)


def test_the_models_own_outputs(make_rmae):
    """From the model itself: the mean over images, and the visible patches left out."""
    model = make_rmae().eval()
    samples = [
        {
            "image": torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8),
            "regions": torch.randint(0, 256, (1, 32, 32), dtype=torch.uint8),
            "num_regions": 8,
            "mask_seed": i,
        }
        for i in range(4)
    ]
    with torch.no_grad():
        outputs = model(samples)
    found = report((samples, outputs))
    model.train()
    with torch.no_grad():
        losses = model(samples)
    for name, value in losses.items():
        assert found[name] == pytest.approx(value.item(), rel=1e-5)
    assert 0 < found["region_iou"] < 1


@pytest.mark.parametrize(("ratio", "feeding"), [(0, "region_to_pixel"), (1, "pixel_to_region")])
def test_regions_that_are_input_or_target_only(make_rmae, ratio, feeding):
    model = make_rmae(regions={"mask_ratio": ratio}, feeding=feeding).eval()
    samples = [
        {
            "image": torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8),
            "regions": torch.randint(0, 256, (1, 32, 32), dtype=torch.uint8),
            "num_regions": 8,
        }
    ]
    with torch.no_grad():
        found = report((samples, model(samples)))
    if ratio == 0:
        assert found["loss_region"] == 0 and found.keys() == {"loss_pixel", "loss_region"}
    else:
        assert found["loss_region"] > 0 and 0 < found["region_iou"] < 1
        assert found["region_iou_nearest"] == 0


def test_sources_are_reported_apart():
    """What one source gives alone is what it gives beside another, whose images count for pixels once."""
    first, second = make(3), make(4)
    tagged = [{**sample, "region_source": "instances"} for sample in second[0]]
    both = report(first, (tagged, second[1]))
    alone, other = report(first), report(second)
    assert {k: v for k, v in both.items() if "instances" not in k} == alone
    assert both["loss_region_instances"] == other["loss_region"]
    assert both["region_iou_instances"] == other["region_iou"]
    assert both["region_iou_instances_nearest"] == other["region_iou_nearest"]
    assert "loss_pixel_instances" not in both


def test_maps_without_a_region_do_not_count():
    samples, outputs = make(2)
    empty = [{"regions": torch.zeros_like(samples[0]["regions"])}], outputs[:1]
    assert "region_iou" not in report(empty)
    alone = report((samples, outputs))["region_iou"]
    assert report((samples, outputs), empty)["region_iou"] == alone


def test_nearest_visible_pixel_by_pixel():
    truth, mask = torch.rand(2, *SIZE) > 0.5, torch.rand(L) < 0.8
    found = nearest_visible(truth, mask)
    columns = SIZE[1] // PATCH
    visible = [divmod(i, columns) for i in range(L) if not mask[i]]
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            here = (y // PATCH, x // PATCH)
            # min takes the first of equals, and `visible` is in raster order.
            row, column = min(visible, key=lambda p: (p[0] - here[0]) ** 2 + (p[1] - here[1]) ** 2)
            ny = min(max(y, row * PATCH), row * PATCH + PATCH - 1)
            nx = min(max(x, column * PATCH), column * PATCH + PATCH - 1)
            assert (found[:, y, x] == truth[:, ny, nx]).all()
