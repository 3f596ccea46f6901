"""Small models, exported."""

import pytest

from tests.helpers import (
    DETECTOR,
    SMALL_DETECTOR,
    SMALL_SEMANTIC,
    save_run,
    write_photos,
)

SEMANTIC = ["train.device=cpu", "model.backbone.net.pretrain_img_size=32", *SMALL_SEMANTIC]


@pytest.fixture(scope="session")
def small_photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"), 3)


@pytest.fixture(scope="session")
def export(tmp_path_factory, small_photos):
    """Writes a run with random weights and exports it; the paths of weights and file, and what it said."""
    pytest.importorskip("onnxruntime", reason="pip install rmae_d2[onnx]")
    from rmae_d2.export import export_model

    def make(name, *overrides, tiny=False):
        folder = tmp_path_factory.mktemp("run")
        weights = save_run(folder, *overrides, name=name, tiny=tiny)
        said = export_model(str(folder), folder / "model.onnx", images=[str(small_photos)])
        return weights, folder / "model.onnx", said

    return make


@pytest.fixture(scope="session")
def detector(export):
    return export(DETECTOR, *SMALL_DETECTOR)


@pytest.fixture(scope="session")
def segmentor(export):
    return export("demo/semantic_tiny_ade20k.py", *SEMANTIC)


@pytest.fixture(scope="session")
def encoder(export):
    return export("demo/rmae_tiny_scenes.py", tiny=True)
