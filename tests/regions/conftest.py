"""What the tests of regions share."""

import shutil
import subprocess

import numpy as np
import pytest

from rmae_d2.regions import RegionRecord, ShardHeader, ShardWriter, write_index
from rmae_d2.regions.store.shards import digest

PARAMS = {"source": "test", "scales": [1, 2]}


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
def mount(tmp_path):
    """Mounts a file system of a few kB."""
    folder = tmp_path / "small"
    folder.mkdir()

    def make(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("may not mount a tmpfs here")
        return folder

    yield make
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)
