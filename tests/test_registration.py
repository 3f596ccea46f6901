"""Whoever imports what first, our architectures and data sets are in Detectron2's registries."""

import subprocess
import sys

import pytest

CHECK = """
import sys
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY
assert "RMAE" in META_ARCH_REGISTRY and "scenes_train" in DatasetCatalog
assert not [finder for finder in sys.meta_path if type(finder).__module__ == "rmae_d2.registration"]
"""


@pytest.mark.parametrize(
    "first",
    [
        "import rmae_d2, detectron2.modeling",  # which imports detectron2.data in its midst
        "import rmae_d2, detectron2.data",
        "import detectron2.modeling, rmae_d2",
        "import rmae_d2.data",
    ],
)
def test_any_order(first):
    done = subprocess.run([sys.executable, "-c", first + CHECK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
