"""Batches come in order, one is always on its way, and errors keep their place."""

import pytest
import torch

from rmae_d2.data import build_train_loader
from rmae_d2.data.loader import DevicePrefetcher
from rmae_d2.modeling import Batch

CPU = torch.device("cpu")


def numbered(count, log):
    for i in range(count):
        log.append(i)
        yield Batch.of([{"image": torch.full((2,), i), "file_name": f"{i}.jpg"}])


def test_order_and_one_ahead():
    log: list[int] = []
    batches = DevicePrefetcher(numbered(4, log), CPU)
    assert not log  # workers start when the first batch is asked for
    for i in range(4):
        sample = next(batches)[0]
        assert sample["image"].tolist() == [i, i] and sample["file_name"] == f"{i}.jpg"
        assert log == list(range(min(i + 2, 4)))
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(batches)


def mapper(sample):
    if sample["number"] == 6:
        raise ZeroDivisionError("six")
    return {"image": torch.full((3, 2, 2), sample["number"]), "number": sample["number"]}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_hands_over_the_same_batches(workers):
    data = [{"number": number} for number in range(6)]
    loader = build_train_loader(data, mapper, 2, num_workers=workers, seed=1)
    plain, ahead = iter(loader.start(1)), iter(loader.start(1, CPU))
    for _ in range(7):
        a, b = next(plain), next(ahead)
        assert [x["number"] for x in a] == [x["number"] for x in b]
        assert torch.equal(
            torch.stack([x["image"] for x in a]), torch.stack([x["image"] for x in b])
        )


def test_a_workers_error_comes_at_its_batch():
    data = [{"number": number} for number in range(7)]
    loader = build_train_loader(data, mapper, 1, num_workers=1, seed=0)
    position = next(p for p in range(7) if loader._stream.index(p) == 6)
    batches = iter(loader.start(0, CPU))
    for _ in range(position):
        next(batches)
    with pytest.raises(ZeroDivisionError, match="six"):
        next(batches)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    data = [{"number": number} for number in range(6)]
    device = torch.device("cuda", 0)
    loader = build_train_loader(data, mapper, 3, num_workers=1, seed=1)
    plain, ahead = iter(loader.start(0)), iter(loader.start(0, device))
    for _ in range(5):
        images = torch.stack([x["image"] for x in next(ahead)])
        assert images.device == device
        assert torch.equal(images.cpu(), torch.stack([x["image"] for x in next(plain)]))
