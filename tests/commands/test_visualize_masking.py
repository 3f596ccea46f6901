"""Masks drawn of a run's own files."""

import numpy as np
import pytest
import torch
from PIL import Image

from rmae_d2.modeling import MaskedViT
from tests.helpers import save_run

NET = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 4}
SCORER = "model.masking.generator.scorer.net"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with photos, and config and weights of a tiny R-MAE whose masks are learned."""
    from skimage import data

    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    torch.save(MaskedViT(**NET).state_dict(), folder / "scorer.pth")
    (folder / "photos").mkdir()
    for i, photo in enumerate((data.astronaut(), data.coffee())):
        Image.fromarray(photo[:120, :160]).save(folder / f"photos/{i}.png")
    overrides = [
        *(f"model.backbone.net.{key}={value}" for key, value in NET.items()),
        "model.pixel_decoder.dim=16",
        "model.pixel_decoder.depth=1",
        "model.pixel_decoder.num_heads=4",
        f"model.masking.generator.scorer.weights={folder / 'scorer.pth'}",
        *(f"{SCORER}.{key}={NET[key]}" for key in ("embed_dim", "depth", "num_heads")),
        "train.device=cpu",
        f"train.output_dir={folder}",
    ]
    save_run(folder, *overrides, name="pretrain/automae_rmae_vitb.py", tiny=False)
    return folder


def test_a_sheet(run, tmp_path, cli):
    files = ("--config-file", run / "config.yaml", "--weights", run / "model_final.pth")
    shown = ("--input", run / "photos", "--output", tmp_path / "new/masks.png")
    code, output, error = cli("visualize", "masking", *files, *shown)
    assert code == 0, error
    assert str(tmp_path / "new/masks.png") in output
    picture = np.asarray(Image.open(tmp_path / "new/masks.png"))
    # image, probability, visible patches, pixels, 3 x 3 of regions; 32 pixels enlarged to 128.
    assert picture.shape == (26 + 2 * 134, 13 * 134 + 6, 3)


def test_wrong_files(run, tmp_path, cli):
    command = ("visualize", "masking", "--config-file", run / "config.yaml", "--weights")
    code, _, error = cli(*command, tmp_path / "none.pth", "--input", run / "photos")
    assert code == 1 and error.strip().endswith("none.pth: no such weight file")
    code, _, error = cli(*command, run / "model_final.pth", "--input", tmp_path / "nowhere")
    assert code == 1 and error.startswith("error: ") and "nowhere" in error
