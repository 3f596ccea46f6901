import numpy as np
import pytest
import torch

from rmae_d2.modeling import Batch


def samples(regions=5, size=(8, 12)):
    out = []
    for i in range(2):
        maps = torch.rand(regions, *size) > 0.7
        bits = torch.from_numpy(np.packbits(maps.numpy(), axis=0, bitorder="little"))
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        out.append({"image": image, "regions": bits, "num_regions": regions, "mask_seed": i})
        out[-1] |= {"file_name": f"{i}.jpg", "maps": maps}
    return out


@pytest.mark.parametrize("regions", [1, 5, 8, 11])
def test_stacked_and_unpacked(regions):
    dicts = samples(regions)
    batch = Batch.of(dicts)
    assert Batch.of(batch) is batch and len(batch) == 2
    maps = torch.stack([x["maps"] for x in dicts])
    assert batch.num_regions == regions and torch.equal(batch.region_maps(), maps)
    unpacked = Batch.of([{**x, "regions": x["maps"]} for x in dicts])
    assert unpacked.num_regions == regions and torch.equal(unpacked.region_maps(), maps)
    assert batch.mask_seeds.tolist() == [0, 1] and batch.to(torch.device("cpu")) is batch
    for given, found in zip(dicts, batch, strict=True):
        assert given.keys() == found.keys()
        assert torch.equal(found["image"], given["image"])
        assert torch.equal(found["regions"], given["regions"])
        assert found["file_name"] == given["file_name"]


def test_without_regions_and_seeds():
    batch = Batch.of([{"image": x["image"]} for x in samples()])
    assert batch.region_maps() is None and batch.mask_seeds is None
    assert list(batch[0]) == ["image"]


def test_images_of_another_device():
    batch = Batch.of(samples()).to(torch.device("meta"))
    assert batch.images.is_meta and batch.regions.is_meta and not batch.mask_seeds.is_meta


@pytest.mark.parametrize("numbers", [(5, 8), (8, 5)])
def test_images_with_different_numbers_of_regions(numbers):
    """5 and 8 regions both fill one byte plane; neither may be cut to, or filled up with, the other's."""
    with pytest.raises(ValueError, match=r"one num_regions, this one has \[5, 8\]"):
        Batch.of([samples(number)[0] for number in numbers])


def test_images_of_several_sizes():
    with pytest.raises(
        ValueError, match=r"0\.jpg comes as \(C, H, W\) = \(3, 8, 8\).*\(3, 8, 12\)"
    ):
        Batch.of([samples()[1], samples(size=(8, 8))[0]])
