"""The demo's transfer configs on a few rendered scenes, from a pre-training of two steps."""

from pathlib import Path

import pytest

from rmae_d2.data.scenes.crops import write_crops
from rmae_d2.data.scenes.dataset import write_scenes

DEMO = Path(__file__).resolve().parents[2] / "configs/demo"
SMALL = [
    "train.device=cpu",
    "train.log_period=1",
    "model.backbone.net.embed_dim=32",
    "model.backbone.net.depth=4",
    "model.backbone.net.num_heads=4",
    "dataloader.test.num_workers=0",
]
SHORT = [*SMALL, "train.max_iter=2", "dataloader.train.num_workers=0"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets") / "scenes"
    write_scenes(folder, num_train=60, num_val=6, seed=1, workers=2)
    write_crops(folder, folder.parent / "scenes_crops")
    return folder


@pytest.fixture(scope="module", params=["mae_tiny_scenes", "rmae_tiny_scenes"])
def pretrained(request, scenes, runs, tmp_path_factory):
    """Overrides that name the weights of MAE and of R-MAE."""
    out = tmp_path_factory.mktemp(request.param)
    runs.train(
        out,
        *SHORT,
        *(f"dataloader.{x}.dataset.root={scenes / 'train'}" for x in ("train", "test")),
        "dataloader.train.total_batch_size=2",
        "model.backbone.net.img_size=64",
        "train.eval_period=0",
        "train.vis_period=0",
        config=DEMO / f"{request.param}.py",
        tiny=False,
    )
    return f"train.init_checkpoint={out / 'model_final.pth'}"


def test_semantic(scenes, pretrained, runs, tmp_path):
    folders = [
        f"dataloader.{part}.dataset.{key}={scenes / (prefix + split)}"
        for part, split in (("train", "train"), ("test", "val"))
        for key, prefix in (("images", ""), ("labels", "stuff_"))
    ]
    found = runs.train(
        tmp_path / "run",
        *SHORT,
        *folders,
        pretrained,
        "dataloader.train.dataset.num_classes=17",
        "train.eval_period=2",
        "dataloader.train.total_batch_size=2",
        "model.backbone.net.out_indices=[0,1,2,3]",
        "model.backbone.in_features=[block0,block1,block2,block3]",
        "model.sem_seg_head.channels=8",
        config=DEMO / "semantic_tiny_scenes.py",
        tiny=False,
    )
    assert 0 <= found["sem_seg"]["mIoU"] <= found["sem_seg"]["pACC"] <= 100
    assert len([key for key in found["sem_seg"] if key.startswith("IoU-")]) == 17


def test_linear_and_knn(scenes, pretrained, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(scenes.parent))
    found = runs.train(
        tmp_path / "linear",
        *SHORT,
        pretrained,
        "train.eval_period=2",
        "dataloader.train.total_batch_size=8",
        config=DEMO / "linear_tiny_scenes.py",
        tiny=False,
    )
    assert 0 <= found["classification"]["top1"] <= found["classification"]["top5"] <= 100
    # A probe leaves the encoder as it is, so its own file answers alike.
    probed = f"train.init_checkpoint={tmp_path / 'linear/model_final.pth'}"
    answers = [
        runs.train(
            tmp_path / "knn",
            *SMALL,
            weights,
            config=DEMO / "knn_tiny_scenes.py",
            tiny=False,
            eval_only=True,
        )["knn"]
        for weights in (pretrained, probed)
    ]
    assert answers[0] == answers[1]
    assert 0 <= answers[0]["top1"] <= answers[0]["top5"] <= 100
