"""The worked examples of CONTRIBUTING.md do what they say."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from rmae_d2.modeling.masking.base import MaskRequest
from tests.helpers import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
EXAMPLES = dict(re.findall(r"^## (.+?)\n.*?```python\n(.*?)```", TEXT, re.MULTILINE | re.DOTALL))


@pytest.fixture
def run():
    def run(title):
        names = {}
        exec(EXAMPLES[title], names)
        return names

    return run


def test_a_region_source(run):
    record = run("A region source")["Quarters"]()({}, np.zeros((4, 6, 3), np.uint8))
    regions = record.regions()
    assert record.size == (4, 6) and sorted(regions.area.tolist()) == [6, 6, 6, 6]


def test_a_masking_policy(run):
    policy = run("A masking policy")["CentreMasking"]()
    request = MaskRequest(torch.tensor([3, 4]), (4, 4), 4, torch.zeros(2, 3, 64, 64))
    order = policy(request).ids_shuffle
    assert order.sort(dim=1).values.tolist() == [list(range(16))] * 2
    assert order[:, :4].sort(dim=1).values.tolist() == [[0, 3, 12, 15]] * 2
    assert order[:, -4:].sort(dim=1).values.tolist() == [[5, 6, 9, 10]] * 2
    assert order[0].tolist() != order[1].tolist()


def test_a_checkpoint_format(run):
    run("A checkpoint format")


def test_a_data_set(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (12, 10)).save("a.png")
    assert run("A data set")["sample"]["annotations"][0]["bbox"] == [1, 2, 9, 8]


def test_every_example_is_run():
    assert len(EXAMPLES) == 4
