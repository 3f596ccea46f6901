"""Class weights of the federated loss: Detectron2's for LVIS, the json's own for other data."""

import json
import pickle

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import get_fed_loss_cls_weights

from rmae_d2.data.class_weights import FederatedClassWeights
from rmae_d2.errors import UserError


def test_lvis_has_detectron2s_weights():
    for names in ("lvis_v1_train", ["lvis_v1_train"]):
        weights = pickle.loads(pickle.dumps(FederatedClassWeights(names)))()
        assert weights.shape == (1203,) and weights.dtype == torch.float32
        assert torch.equal(weights, get_fed_loss_cls_weights("lvis_v1_train", 0.5))


@pytest.fixture
def own(tmp_path):
    """Class 4 on two images, class 9 on one though twice, class 5 on none."""
    box = {"bbox": [0, 0, 2, 2]}
    path = tmp_path / "own.json"
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 4, "width": 4} for i in (1, 2)],
        "categories": [{"id": i, "name": str(i)} for i in (9, 4, 5)],
        "annotations": [
            {"id": k, "image_id": image, "category_id": category, **box}
            for k, (image, category) in enumerate([(1, 4), (2, 4), (1, 9), (1, 9)])
        ],
    }
    path.write_text(json.dumps(content))
    return str(path)


def test_own_data_are_counted(own):
    """In the order of the classes' ids; a class without images can still be drawn."""
    assert FederatedClassWeights("lvis_v1_train", own, power=1.0)().tolist() == [2, 1, 1]
    assert FederatedClassWeights(json=own)().tolist() == pytest.approx([2**0.5, 1, 1])


def test_registered_data_without_counts(own):
    name = "registered_for_class_weights"
    DatasetCatalog.register(name, list)
    try:
        with pytest.raises(ValueError, match="neither class_image_count nor json_file"):
            FederatedClassWeights(name)()
        MetadataCatalog.get(name).set(json_file=own)
        assert FederatedClassWeights((name,), power=1.0)().tolist() == [2, 1, 1]
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def test_what_is_not_there():
    with pytest.raises(ValueError, match="no dataset is registered as 'lvis_v2_train'"):
        FederatedClassWeights("lvis_v2_train")()
    with pytest.raises(UserError, match="no annotation file /nowhere.json"):
        FederatedClassWeights(json="/nowhere.json")()
