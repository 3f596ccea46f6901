import csv
import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import launch
from detectron2.evaluation import SemSegEvaluator as Detectron2Evaluator
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rmae_d2.data.datasets.semantic import semantic_classes, semantic_dataset
from rmae_d2.errors import AnnotationError, UserError
from rmae_d2.evaluation.semantic import SemSegEvaluator, confusion_matrix, semantic_metrics

ADE20K = "ade20k_sem_seg_val"


def size_of(path):
    with Image.open(path) as image:
        return image.height, image.width


def predictions(dicts, num_classes, seed=0):
    """Scores that are right in most places, and often for a neighbour of the right class."""
    generator = torch.Generator().manual_seed(seed)
    for sample in dicts:
        with Image.open(sample["sem_seg_file_name"]) as image:
            truth = torch.from_numpy(np.array(image)).long() - int(sample["zero_is_ignored"])
        truth = truth.clamp(0, num_classes - 1)
        noise = torch.rand(truth.shape, generator=generator)
        wrong = (truth + torch.randint(1, 4, truth.shape, generator=generator)) % num_classes
        labels = torch.where(noise < 0.7, truth, wrong)
        yield torch.nn.functional.one_hot(labels, num_classes).permute(2, 0, 1).float()


@pytest.fixture
def same_data(shared_data, tmp_path):
    """The real photos' official labels, and the same registered as Detectron2 wants them."""
    folder = shared_data / "ADEChallengeData2016"
    dicts = semantic_dataset(
        images=str(folder / "images"),
        labels=str(folder / "annotations"),
        num_classes=150,
        zero_is_ignored=True,
    )[::3]
    converted = []
    for i, sample in enumerate(dicts):
        with Image.open(sample["sem_seg_file_name"]) as image:
            Image.fromarray(np.asarray(image) - np.uint8(1)).save(tmp_path / f"{i}.png")
        converted.append({**sample, "sem_seg_file_name": str(tmp_path / f"{i}.png")})
    name = "ade20k_converted"
    DatasetCatalog.register(name, lambda: converted)
    classes = list(semantic_classes(ADE20K))
    MetadataCatalog.get(name).set(stuff_classes=classes, ignore_label=255)
    yield name, dicts
    DatasetCatalog.pop(name)
    MetadataCatalog.pop(name)


def test_equals_detectron2(same_data, tmp_path, caplog):
    name, dicts = same_data
    theirs = Detectron2Evaluator(name, distributed=False)
    ours = SemSegEvaluator(ADE20K, output_dir=str(tmp_path / "out"))
    as_labels = SemSegEvaluator(ADE20K)
    for evaluator in (theirs, ours, as_labels):
        evaluator.reset()
    for sample, scores in zip(dicts, predictions(dicts, 150), strict=True):
        theirs.process([sample], [{"sem_seg": scores}])
        ours.process([sample], [{"sem_seg": scores, "inference": "whole image; scale 1"}])
        as_labels.process([sample], [{"sem_seg_labels": scores.argmax(dim=0).int()}])
    expected = {k: v for k, v in theirs.evaluate()["sem_seg"].items() if "Boundary" not in k}
    expected = {k: v for k, v in expected.items() if not k.startswith("min(")}
    with caplog.at_level("INFO"):
        found = ours.evaluate()["sem_seg"]
    assert list(found) == list(expected) and 20 < found["mIoU"] < 80
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-12, nan_ok=True), key
    assert as_labels.evaluate()["sem_seg"] == pytest.approx(found, nan_ok=True)

    log = caplog.text
    assert "inference: whole image; scale 1" in log and f"mIoU {found['mIoU']:.2f}" in log
    absent = [c for c in semantic_classes(ADE20K) if math.isnan(found[f"IoU-{c}"])]
    assert 50 < len(absent) < 150 and f"{len(absent)} of 150 classes" in log
    summary = json.loads((tmp_path / "out/sem_seg_evaluation.json").read_text())
    assert summary["absent_classes"] == absent and summary["images"] == len(dicts) == 4
    assert summary["inference"] == "whole image; scale 1"
    assert summary["metrics"]["mIoU"] == found["mIoU"]
    with open(tmp_path / "out/sem_seg_per_class.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(semantic_classes(ADE20K))
    assert float(rows[0]["IoU"]) == found["IoU-wall"] and rows[0]["class"] == "wall"


@given(size=st.integers(1, 60), num_classes=st.integers(1, 7), seed=st.integers(0, 2**31))
def test_by_hand(size, num_classes, seed):
    """Against the definitions, class by class."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_classes, size)
    truth[rng.random(size) < 0.2] = 255
    predicted = rng.integers(0, num_classes, size)
    confusion = confusion_matrix(truth, predicted, num_classes)
    kept = truth != 255
    assert confusion.sum() == kept.sum()
    if not kept.any():
        return
    names = [f"c{k}" for k in range(num_classes)]
    metrics = semantic_metrics(confusion, names)
    ious, accuracies, frequencies = [], [], []
    for k, name in enumerate(names):
        own, said = (truth == k) & kept, (predicted == k) & kept
        if not own.any():
            assert math.isnan(metrics[f"IoU-{name}"]) and math.isnan(metrics[f"ACC-{name}"])
            continue
        ious.append((own & said).sum() / (own | said).sum())
        accuracies.append((own & said).sum() / own.sum())
        frequencies.append(own.sum() / kept.sum())
        assert metrics[f"IoU-{name}"] == pytest.approx(100 * ious[-1])
    assert metrics["mIoU"] == pytest.approx(100 * np.mean(ious))
    assert metrics["mACC"] == pytest.approx(100 * np.mean(accuracies))
    assert metrics["fwIoU"] == pytest.approx(100 * np.dot(ious, frequencies))
    assert metrics["pACC"] == pytest.approx(100 * (truth == predicted)[kept].mean())


@pytest.fixture
def own(tmp_path):
    Image.fromarray(np.array([[0, 1, 1, 255]], np.uint8)).save(tmp_path / "x.png")
    sample = {"file_name": "x.jpg", "sem_seg_file_name": str(tmp_path / "x.png")}
    return SemSegEvaluator(images=str(tmp_path), num_classes=3), sample


def labels(*values):
    return {"sem_seg_labels": torch.tensor([values])}


def test_own_data(own, caplog):
    evaluator, sample = own
    evaluator.process([sample], [labels(0, 2, 1, 2)])
    with caplog.at_level("INFO"):
        found = evaluator.evaluate()["sem_seg"]
    assert found["IoU-0"] == 100 and found["IoU-1"] == 50 and math.isnan(found["IoU-2"])
    assert found["mIoU"] == 75 and found["pACC"] == pytest.approx(200 / 3)
    assert "1 of 3 classes (2); the model predicts 1 of them somewhere" in caplog.text
    assert "inference: not said by the model" in caplog.text
    evaluator.reset()
    evaluator.process([sample], [labels(0, 1, 1, 0)])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100


def test_nothing_evaluated(own, caplog):
    assert own[0].evaluate() == {} and "NOTHING EVALUATED: 0 images" in caplog.text


@pytest.mark.parametrize(
    "output, error, message",
    [
        ({"instances": 1}, UserError, "needs the output 'sem_seg', the model gives instances"),
        (labels(0, 1, 3, 0), UserError, "predicts class 3, the data have 3"),
        (labels(0, -1, 1, 1), UserError, "x.jpg: the model's scores are nan"),
        ({"sem_seg": torch.full((3, 1, 4), torch.nan)}, UserError, "x.jpg.*scores are nan"),
        (labels(0, 1, 1), AnnotationError, "x.png is 1x4.*x.jpg is 1x3"),
    ],
)
def test_outputs_that_do_not_belong(own, output, error, message):
    evaluator, sample = own
    with pytest.raises(error, match=message):
        evaluator.process([sample], [output])


def test_samples_without_labels(own):
    with pytest.raises(UserError, match="SemanticDatasetMapper in dataloader.test.mapper"):
        own[0].process([{"file_name": "x.jpg"}], [labels(0)])


def _one_of_two(folder):
    """Sees one of two images; the first process writes what both make."""
    from detectron2.utils import comm

    evaluator = SemSegEvaluator(images=folder, num_classes=3)
    predicted = [labels(0, 1, 1, 0), labels(2, 0, 1, 0)][comm.get_rank()]
    sample = {"file_name": "x.jpg", "sem_seg_file_name": f"{folder}/x.png"}
    evaluator.process([sample], [predicted])
    found = evaluator.evaluate()
    if comm.get_rank():
        assert found == {}
    else:
        with open(f"{folder}/found.json", "w") as file:
            json.dump(found["sem_seg"]["pACC"], file)


def test_processes_are_added_up(own, tmp_path):
    launch(_one_of_two, 2, dist_url="auto", args=(str(tmp_path),))
    assert json.loads((tmp_path / "found.json").read_text()) == pytest.approx(100 * 4 / 6)
