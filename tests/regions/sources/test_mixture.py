"""One of several sources per sample: as often as weighed, by the loader's seeds, errors and all."""

import pickle

import numpy as np
import pytest

from rmae_d2.data import RegionDatasetMapper, build_train_loader
from rmae_d2.errors import StoreError
from rmae_d2.regions import FelzenszwalbSource, MixtureOfSources, RegionRecord, StoredRegions

IMAGE = np.zeros((12, 20, 3), np.uint8)


class Constant:
    """A record of one plane that holds one label, and nothing else."""

    def __init__(self, label):
        self.label = label
        self.params = {"source": f"constant {label}"}

    def __call__(self, dataset_dict, image_HWC):
        return RegionRecord.from_labels(np.full(image_HWC.shape[:2], self.label))


def drawn(mixture, number, seed=0):
    np.random.seed(seed)
    return [int(mixture({}, IMAGE).labels[0, 0, 0]) for _ in range(number)]


def test_as_often_as_weighed():
    mixture = MixtureOfSources([Constant(0), Constant(1), Constant(2)], [2, 1, 1])
    counts = np.bincount(drawn(mixture, 4000), minlength=3)
    # Four standard deviations of a binomial of 4000.
    assert np.abs(counts / 4000 - [0.5, 0.25, 0.25]).max() < 4 * 0.5 / 4000**0.5


def test_weights_of_nought_and_none():
    assert set(drawn(MixtureOfSources([Constant(0), Constant(1)], [0, 3]), 200)) == {1}
    assert set(drawn(MixtureOfSources([Constant(0), Constant(1)], [3, 0]), 200)) == {0}
    equal = MixtureOfSources([Constant(0), Constant(1)])
    assert equal.probabilities.tolist() == [0.5, 0.5]


def test_a_function_of_the_seed_alone():
    mixture = MixtureOfSources([Constant(i) for i in range(5)])
    assert drawn(mixture, 50) == drawn(pickle.loads(pickle.dumps(mixture)), 50)
    assert drawn(mixture, 50) != drawn(mixture, 50, seed=1)


@pytest.mark.parametrize(
    "sources, weights, message",
    [
        (0, None, "at least one source"),
        (2, [1], "2 region sources was given 1"),
        (2, [1, -1], "0 or more"),
        (2, [0, 0], "one of them positive"),
        (1, [float("nan")], "0 or more"),
    ],
)
def test_refusals(sources, weights, message):
    with pytest.raises(ValueError, match=message):
        MixtureOfSources([Constant(i) for i in range(sources)], weights)


def test_what_it_says_of_itself():
    mixture = MixtureOfSources([FelzenszwalbSource((300,)), Constant(1)], [3, 1])
    assert mixture.params["probabilities"] == [0.75, 0.25]
    assert [params["source"] for params in mixture.params["sources"]] == [
        "felzenszwalb",
        "constant 1",
    ]
    assert "75.0% FH at scales (300,)" in repr(mixture)


def test_stores_with_and_without_fallback(tmp_path, make_store, make_record):
    store = make_store(tmp_path / "store", {"there": make_record(0)})
    there, absent = ({"file_name": f"/nowhere/{x}", "image_id": x} for x in ("there", "absent"))
    mixture = MixtureOfSources([StoredRegions(store), Constant(3)], [1, 1])
    np.random.seed(0)
    kinds = {type(mixture(there, IMAGE)).__name__ for _ in range(20)}
    assert kinds == {"EncodedRecord", "RegionRecord"}
    with pytest.raises(StoreError, match="absent has no regions"):
        for _ in range(20):
            mixture(absent, IMAGE)
    lenient = MixtureOfSources([StoredRegions(store, Constant(7)), Constant(3)])
    np.random.seed(0)
    assert {int(lenient(absent, IMAGE).labels[0, 0, 0]) for _ in range(20)} == {3, 7}


def test_in_training_a_function_of_the_position(tmp_path):
    """Whatever the workers and wherever the stream is entered; crops and masks as with one source."""
    from PIL import Image

    rng = np.random.default_rng(0)
    dicts = []
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / f"{i}.png")
        dicts.append({"file_name": str(tmp_path / f"{i}.png"), "image_id": i})

    class Halves(Constant):
        def __call__(self, dataset_dict, image_HWC):
            masks = np.zeros((1, *image_HWC.shape[:2]), bool)
            masks[0, :20] = self.label
            masks[0, 20:] = not self.label
            return RegionRecord.from_masks(masks)

    def samples(source, start=0):
        mapper = RegionDatasetMapper(augmentations=[], regions=source, num_regions=1)
        loader = build_train_loader(dicts, mapper, total_batch_size=4, num_workers=0, seed=5)
        batches = iter(loader.start(start))
        return [sample for _ in range(3) for sample in next(batches)]

    mixture = MixtureOfSources([Halves(0), Halves(1)])
    mixed, again = samples(mixture), samples(mixture, start=1)
    tops = [int(sample["regions"][0, 0, 0]) for sample in mixed]
    assert set(tops) == {0, 1}
    assert [int(sample["regions"][0, 0, 0]) for sample in again[:8]] == tops[4:]
    assert [x["mask_seed"] for x in samples(Halves(0))] == [x["mask_seed"] for x in mixed]
    by_image = {}
    for sample, top in zip(mixed, tops, strict=True):
        by_image.setdefault(sample["image_id"], set()).add(top)
    assert {0, 1} in by_image.values()
