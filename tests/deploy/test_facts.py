"""What stands in an exported file, and files that have nothing of the kind."""

import pytest

from rmae_d2.deploy.facts import DETECTOR, ModelFacts
from rmae_d2.errors import UserError

FACTS = ModelFacts(
    DETECTOR,
    (64, 64),
    16,
    (1.0, 2.0, 3.0),
    (4.0, 5.0, 6.0),
    resize={"rule": "shortest_edge", "length": 64, "max_size": 64},
    class_names=("dog", "cat"),
    category_ids=(7, 3),
    class_source="own.json",
)


def test_there_and_back():
    assert ModelFacts.from_json(FACTS.to_json(), "x.onnx") == FACTS
    assert FACTS.classes.categories == [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


def test_of_others_and_of_later():
    with pytest.raises(UserError, match=r"x\.onnx: not exported by rmae_d2"):
        ModelFacts.from_json(None, "x.onnx")
    with pytest.raises(UserError, match=r"x\.onnx: exported by a later rmae_d2"):
        ModelFacts.from_json(FACTS.to_json().replace('"form": 1', '"form": 2'), "x.onnx")
