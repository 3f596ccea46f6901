"""k-NN against comparing everything in numpy, as an evaluation of models and of runs."""

import numpy as np
import pytest
import torch
from detectron2.engine.hooks import EvalHook
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.data import build_eval_loader
from rmae_d2.data.classification_mapper import ClassificationDatasetMapper, ResizeCenterCrop
from rmae_d2.data.datasets.image_folder import knn_dataset
from rmae_d2.engine import Evaluate, Trainer
from rmae_d2.errors import UserError
from rmae_d2.evaluation.knn import KNNEvaluation, KNNEvaluator, knn_votes


def brute_force(queries, bank, labels, num_classes, k, temperature, own=None):
    """Votes in float64, up to each query's largest weight."""
    votes = np.zeros((len(queries), num_classes))
    for q, query in enumerate(queries):
        voters = [n for n in range(len(bank)) if own is None or n != own[q]]
        cosines = [(float(query @ bank[n]), n) for n in voters]
        for cosine, n in sorted(cosines, reverse=True)[:k]:
            votes[q, labels[n]] += np.exp((cosine - max(cosines)[0]) / temperature)
    return votes


def unit(count, dim, seed):
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@given(
    voters=st.integers(2, 40),
    asked=st.integers(1, 8),
    k=st.integers(1, 25),
    chunk=st.integers(1, 50),
    temperature=st.sampled_from([0.005, 0.07, 1.0]),
    leave_one_out=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_votes_by_brute_force(voters, asked, k, chunk, temperature, leave_one_out, seed):
    bank, labels = unit(voters, 6, seed), np.random.default_rng(seed).integers(0, 5, voters)
    asked = min(asked, voters)
    queries = bank[:asked] if leave_one_out else unit(asked, 6, seed + 1)
    own = np.arange(asked) if leave_one_out else None
    found = knn_votes(
        torch.from_numpy(queries),
        torch.from_numpy(bank),
        torch.from_numpy(labels),
        5,
        k=k,
        temperature=temperature,
        own_Q=None if own is None else torch.from_numpy(own),
        bank_chunk=chunk,
    )
    expected = brute_force(queries, bank, labels, 5, k, temperature, own)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-5)


def fill(evaluator, features, labels, bank, size=7):
    for start in range(0, len(labels), size):
        part = range(start, min(start + size, len(labels)))
        evaluator.process(
            [{"label": labels[i], "bank": bank[i]} for i in part],
            [{"features": torch.from_numpy(features[i])} for i in part],
        )


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_accuracy_by_brute_force(leave_one_out):
    """Twelve noisy classes: neither all nor nothing is right."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 12, 150)
    features = 5 * (unit(12, 16, 1)[labels] + 0.45 * generator.normal(size=(150, 16)))
    bank = np.arange(150) % 3 > 0 if not leave_one_out else np.ones(150, bool)
    evaluator = KNNEvaluator(k=7, query_chunk=11, bank_chunk=13)
    fill(evaluator, features, labels.tolist(), bank.tolist())
    found = evaluator.evaluate()["knn"]

    normal = features / np.linalg.norm(features, axis=1, keepdims=True)
    normal = normal.astype(np.float32).astype(np.float16).astype(np.float64)
    asked = np.ones(150, bool) if leave_one_out else ~bank
    own = np.arange(150) if leave_one_out else None
    votes = brute_force(normal[asked], normal[bank], labels[bank], 12, 7, 0.07, own)
    order = np.argsort(-votes, axis=1)
    right = (order == labels[asked][:, None]) & (np.take_along_axis(votes, order, 1) > 0)
    expected = {"top1": 100 * right[:, 0].mean(), "top5": 100 * right[:, :5].any(axis=1).mean()}
    expected["commonest"] = 100 * np.bincount(labels[asked]).max() / asked.sum()
    assert found == pytest.approx(expected) and 20 < found["top1"] < found["top5"] < 100


def test_a_class_nobody_votes_for_is_never_right():
    evaluator = KNNEvaluator(k=1)
    features = np.eye(8)
    fill(evaluator, features, list(range(8)), [True] * 4 + [False] * 4)
    # Each of the last four is asked about a class without voters, among eight of which five are listed.
    assert evaluator.evaluate() == {"knn": {"top1": 0.0, "top5": 0.0, "commonest": 25.0}}


def test_nonsense():
    evaluator = KNNEvaluator()
    with pytest.raises(UserError, match=r"got \[0\] images"):
        evaluator.evaluate()
    fill(evaluator, np.eye(3), [0, 1, 2], [False] * 3)
    with pytest.raises(UserError, match="needs images that vote"):
        evaluator.evaluate()
    evaluator.reset()
    fill(evaluator, np.eye(1), [0], [True])
    with pytest.raises(UserError, match="needs images that vote"):
        evaluator.evaluate()
    with pytest.raises(UserError, match="not finite"):
        fill(evaluator, np.array([[np.inf]]), [0], [True])
    with pytest.raises(ValueError, match="k=0"):
        KNNEvaluator(k=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes that even random weights tell apart: dark and bright photos."""
    from PIL import Image
    from skimage import data

    root = tmp_path_factory.mktemp("knn")
    for split, start in (("train", 0), ("val", 60)):
        for name, photo in (("dark", data.rocket()), ("bright", data.coffee())):
            (root / split / name).mkdir(parents=True)
            for i in range(4):
                place = start + 10 * i
                crop = photo[place : place + 100, place : place + 100]
                Image.fromarray(crop).save(root / split / name / f"{i}.png")
    return root


def loader(folder, **arguments):
    mapper = ClassificationDatasetMapper(augmentations=[ResizeCenterCrop(32)])
    return build_eval_loader(knn_dataset(folder, **arguments), mapper, batch_size=3, num_workers=0)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("query_split, precision", [("val", "fp32"), (None, "bf16")])
def test_knn_of_a_model(make_rmae, folder, pool, query_split, precision, caplog):
    samples = loader(folder, query_split=query_split)
    evaluation = KNNEvaluation(samples, KNNEvaluator(k=3), pool, precision)
    model = make_rmae()
    with caplog.at_level("INFO"):
        results = evaluation(model)
    assert results["knn"]["top1"] >= 75 and "top5" not in results["knn"]
    assert model.training and all(module.training for module in model.modules())
    assert "8 images by the votes of 8" in caplog.text
    assert evaluation(model) == results  # nothing is left over


def test_knn_as_a_hook_changes_no_training(make_rmae, folder, tmp_path):
    """Scalars at each period; weights bit for bit those of a run without it."""

    def train(period):
        torch.manual_seed(0)
        model = make_rmae(regions=None)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
        batches = iter([[{"image": image} for image in images]] * 6)
        where = {"device": torch.device("cpu"), "output_dir": str(tmp_path)}
        trainer = Trainer(model, batches, optimizer, **where)
        if period:
            knn = KNNEvaluation(loader(folder), KNNEvaluator(k=3), period=period)
            hook = Evaluate(knn.period, lambda: knn(model))
            assert isinstance(hook, EvalHook)
            trainer.register_hooks([hook])
        trainer.train(0, 6)
        return model, trainer.storage.histories()

    plain, _ = train(0)
    watched, histories = train(2)
    values = histories["knn/top1"].values()
    assert [iteration for _, iteration in values] == [1, 3, 6]
    assert all(0 <= value <= 100 for value, _ in values)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
