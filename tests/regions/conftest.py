"""What the tests of regions share."""

import numpy as np
import pytest
from PIL import Image

from rmae_d2.regions import RegionRecord, ShardHeader, ShardWriter, write_index
from rmae_d2.regions.sources.spec import SourceSpec
from rmae_d2.regions.store.shards import digest

PARAMS = {"source": "test", "scales": [1, 2]}

# One bit plane by brightness. Refuses and fails as its arguments say, by the image's name.
BANDS = """
import numpy as np
from rmae_d2.regions import RegionRecord

class Bands:
    def __init__(self, bands=4, refuse=None, crash=None):
        self.params = {"bands": bands}
        self.refuse, self.crash = refuse, crash

    def __call__(self, dataset_dict, image_HWC):
        name = dataset_dict["file_name"]
        if self.refuse and self.refuse in name:
            raise KeyError("no annotation")
        if self.crash and self.crash in name:
            raise RuntimeError("CUDA error: out of memory")
        labels = image_HWC[..., 0].astype(np.int64) * self.params["bands"] // 256
        return RegionRecord.from_labels(labels, params=self.params)

class NoParams:
    def __call__(self, dataset_dict, image_HWC):
        return RegionRecord.from_labels(image_HWC[..., 0])

class Lists(NoParams):
    params = {}
    def __call__(self, dataset_dict, image_HWC):
        return [1, 2]

class Smaller(NoParams):
    params = {}
    def __call__(self, dataset_dict, image_HWC):
        return RegionRecord.from_labels(image_HWC[1:, :, 0])
"""


@pytest.fixture(scope="session")
def make_record():
    """The bytes of a small record that differs from those of other seeds."""

    def make(seed, size=(12, 20), params=PARAMS):
        labels = np.random.default_rng(seed).integers(0, 5, (2, *size)).repeat(1, axis=0)
        return RegionRecord.from_labels(labels, params=params).to_bytes()

    return make


@pytest.fixture(scope="session")
def make_store():
    """Writes records, a dict, as a store of shards; `only` limits which shards are made."""

    def make(folder, records, per_shard=3, params=PARAMS, only=None, image_bytes=None):
        items = list(records.items())
        shards = [items[i : i + per_shard] for i in range(0, len(items), per_shard)]
        header = ShardHeader(params, len(shards), "hash of the list of images")
        folder.mkdir(parents=True, exist_ok=True)
        for number, members in enumerate(shards):
            if only is not None and number not in only:
                continue
            with ShardWriter(folder, number, header) as writer:
                for key, record in members:
                    image = (image_bytes or {}).get(
                        key, b"image of " + key.encode("utf-8", "replace")
                    )
                    writer.add(key, record, digest(image))
        if only is None:
            write_index(folder)
        return folder

    return make


@pytest.fixture
def photos(tmp_path):
    """Seven images of 64x48, one of them in a sub-folder, as dataset dicts."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    dicts = []
    for name in ("a0.png", "a1.png", "a2.png", "a3.png", "a4.png", "b/b0.png", "b/b1.png"):
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 48)).save(folder / name)
        dicts.append({"file_name": str(folder / name), "image_id": name})
    return dicts


@pytest.fixture
def bands(tmp_path):
    """Makes the specification of a class in a file of the user's."""
    path = tmp_path / "own_source.py"
    path.write_text(BANDS)

    def make(name="Bands", **arguments):
        return SourceSpec.named(f"{path}:{name}", arguments)

    return make
