"""Accuracy by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.errors import UserError
from rmae_d2.evaluation.classification import ClassificationEvaluator


def evaluate(logits, labels, size=3):
    evaluator = ClassificationEvaluator()
    evaluator.reset()
    for start in range(0, len(labels), size):
        part = slice(start, start + size)
        samples = [{"label": label} for label in labels[part]]
        evaluator.process(samples, [{"logits": x} for x in logits[part]])
    return evaluator.evaluate()


@given(count=st.integers(1, 12), classes=st.integers(1, 9), size=st.integers(1, 5), data=st.data())
def test_counts_by_hand(count, classes, size, data):
    order = [data.draw(st.permutations(range(classes))) for _ in range(count)]
    logits = torch.tensor(order).float()
    labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    ranks = [sum(x > row[label] for x in row) for row, label in zip(order, labels, strict=True)]
    results = evaluate(logits, labels, size)
    found = results["classification"]
    assert list(results) == ["classification"]
    assert found["top1"] == pytest.approx(100 * sum(rank < 1 for rank in ranks) / count)
    assert ("top5" in found) == (classes > 5)
    if classes > 5:
        assert found["top5"] == pytest.approx(100 * sum(rank < 5 for rank in ranks) / count)


def test_nothing_and_nonsense():
    with pytest.raises(UserError, match="no image was classified"):
        evaluate(torch.zeros(0, 3), [])
    with pytest.raises(UserError, match=r"an image or another .* not finite"):
        evaluate(torch.tensor([[0.0, torch.nan]]), [0])
