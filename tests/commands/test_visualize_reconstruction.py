"""Reconstructions drawn of a run's own files."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers import save_run


@pytest.fixture
def run(tmp_path):
    """A folder with a photo, and config and weights of a tiny R-MAE."""
    from skimage import data

    Image.fromarray(data.astronaut()[:120, :160]).save(tmp_path / "photo.png")
    overrides = [
        "model.backbone.net.img_size=32",
        "model.backbone.net.patch_size=8",
        "model.backbone.net.embed_dim=32",
        "model.backbone.net.depth=1",
        "model.backbone.net.num_heads=4",
        "model.pixel_decoder.dim=16",
        "model.pixel_decoder.depth=1",
        "train.device=cpu",
    ]
    save_run(tmp_path, *overrides, name="demo/rmae_tiny_scenes.py", tiny=False)
    return tmp_path


def test_a_photo(run, cli):
    command = ["visualize", "reconstruction", "--weights", run / "model_final.pth"]
    command += ["--input", run / "photo.png"]
    command += ["--output", run / "out", "--mask-ratio", "0.5", "0.75", "--max-regions", "1"]
    code, out, error = cli(*command)
    assert code == 0, error
    assert out.count("drawn: ") == 2
    assert np.asarray(Image.open(run / "out/photo.png")).shape[1] == 4 * 224 + 5 * 6
    # Two ratios of one photo.
    assert np.asarray(Image.open(run / "out/contact_sheet.png")).shape[1] == 7 * 160 + 8 * 6
