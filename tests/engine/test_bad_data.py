"""What the command line says of errors that users can set right, from whichever process they come."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmae_d2.errors import UserError
from tests.helpers import SMALL_SEMANTIC

CONFIG = Path(__file__).resolve().parents[2] / "configs/demo/semantic_tiny_ade20k.py"
SMALL = [
    "train.device=cpu",
    "train.log_period=1",
    "train.max_iter=20",
    "dataloader.train.total_batch_size=8",
    "dataloader.train.num_workers=2",
    "dataloader.test.num_workers=1",
    "dataloader.train.mapper.augmentations.0.short_edge_length=[32,64]",
    *SMALL_SEMANTIC,
]


@pytest.fixture
def own(tmp_path):
    """40 photos with labels of three classes, so many that only every other one is looked at beforehand."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for k in range(40):
        photo = rng.integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(photo).save(tmp_path / f"images/{k:02d}.jpg")
        labels = rng.integers(0, 3, (40, 40)).astype(np.uint8)
        Image.fromarray(labels).save(tmp_path / f"labels/{k:02d}.png")
    return tmp_path


def command(runs, own, *more, flags=()):
    line = [
        part
        for part in runs.command(own / "run", flags=flags, config=CONFIG)
        if part not in runs.tiny
    ]
    data = [
        f"dataloader.{split}.dataset.{key}={value}"
        for split in ("train", "test")
        for key, value in (("images", own / "images"), ("labels", own / "labels"))
    ]
    return [*line, *SMALL, *data, "dataloader.train.dataset.num_classes=3", *more]


def test_a_wrong_label_found_by_a_worker(runs, own):
    wrong = own / "labels/07.png"
    labels = np.array(Image.open(wrong))
    labels[5, 6] = 200
    Image.fromarray(labels).save(wrong)
    code, output = runs.run(command(runs, own))
    assert code == 1, output
    last = output.rstrip().splitlines()[-1]
    assert last.startswith(f"error: {wrong} has the label 200 at row 5, column 6")
    for text in ("Traceback", "DataLoader worker", "Exception during training"):
        assert text not in output
    # It came while training, and the log has where from.
    log = (own / "run/log.txt").read_text()
    assert "Starting training from iteration 0" in log
    assert "read_labels" in log and "Exception during training" in log


def test_an_unreadable_photo_found_in_evaluation(runs, own):
    photo = own / "images/09.jpg"
    photo.write_bytes(photo.read_bytes()[:200])
    code, output = runs.run(command(runs, own, "train.max_iter=1", "train.eval_period=1"))
    assert code == 1, output
    assert output.rstrip().splitlines()[-1].startswith(f"error: cannot read the image {photo}: ")
    assert "Traceback" not in output


LINEAR = CONFIG.parents[1] / "imagenet/linear_vitb.py"


@pytest.mark.parametrize(
    ("config", "overrides", "says"),
    [
        (
            CONFIG,
            ["images=OWN/images", "num_classes=3"],
            "lacks dataloader.train.dataset.labels: own data need all of",
        ),
        (
            CONFIG,
            ["labels=OWN/labels"],
            "/labels is of own data, which need dataloader.train.dataset.images",
        ),
        (
            CONFIG,
            ["images=OWN/images", "labels=OWN/labels"],
            "the number of classes of ",
        ),
        (CONFIG, ["images=OWN/images", "labels=OWN/none", "num_classes=3"], "no folder .*/none"),
        (CONFIG, ["names=ade20k_sem_seg_trian"], "did you mean ade20k_sem_seg_train"),
        (CONFIG, ["names=null"], "no data set is named: set dataloader.train.dataset.names"),
        (LINEAR, ["root=OWN"], "no labelled images in .*/train: there is no such folder"),
        # The folders of images and of labels pass for classes.
        (LINEAR, ["root=OWN", "split=", "per_class=0"], "per_class=0: 1 or more"),
        (LINEAR, ["root=OWN", "split=", "num_classes=7"], "has 2 class folders, the model 7"),
        (LINEAR, ["root=OWN", "split=null", "num_classes=7"], "has 2 class folders, the model 7"),
    ],
)
def test_bad_data_are_expected(runs, own, tmp_path_factory, config, overrides, says):
    """As errors whose message is all that is shown; nothing of it gets as far as a model."""
    given = [f"dataloader.train.dataset.{x}".replace("OWN", str(own)) for x in overrides]
    with pytest.raises(UserError, match=says):
        runs.train(tmp_path_factory.mktemp("run"), *given, config=config, tiny=False)
