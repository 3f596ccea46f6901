"""The evaluator's numbers against a computation pixel by pixel."""

import numpy as np
import pytest
import torch

from rmae_d2.evaluation import ReconstructionEvaluator

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


def test_numbers_equal_a_hand_computation():
    samples, outputs = make(5)
    evaluator = ReconstructionEvaluator()
    evaluator.reset()
    evaluator.process(samples[:2], outputs[:2])
    evaluator.process(samples[2:], outputs[2:])
    found = evaluator.evaluate()["reconstruction"]
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


def test_perfect_and_worst_predictions():
    samples, outputs = make(1)
    planes = samples[0]["regions"]
    truth = torch.stack([(planes[k // 8] >> (k % 8)) & 1 for k in range(K)])
    evaluator = ReconstructionEvaluator()
    for probability, expected in ((truth.float(), 1.0), (1.0 - truth, 0.0)):
        evaluator.reset()
        evaluator.process(samples, [{**outputs[0], "region_probability": probability}])
        assert evaluator.evaluate()["reconstruction"]["region_iou"] == expected


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
    evaluator = ReconstructionEvaluator()
    evaluator.reset()
    evaluator.process(samples, outputs)
    found = evaluator.evaluate()["reconstruction"]
    model.train()
    with torch.no_grad():
        losses = model(samples)
    for name, value in losses.items():
        assert found[name] == pytest.approx(value.item(), rel=1e-5)
    assert 0 < found["region_iou"] < 1
