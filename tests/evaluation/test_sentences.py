"""Results in words."""

import pytest

from rmae_d2.evaluation import result_sentence

FOUND = {"loss_pixel": 0.523, "loss_region": 0.3, "region_iou": 0.688, "region_iou_nearest": 0.712}
OF_INSTANCES = {"region_iou_instances": 0.08, "region_iou_instances_nearest": 0.56}
NEAREST = "copying the nearest visible patch gives"


@pytest.mark.parametrize(
    ("task", "metrics", "expected"),
    [
        ("reconstruction", FOUND, f"region IoU 0.69, {NEAREST} 0.71; pixel loss 0.52"),
        (
            "reconstruction",
            FOUND | OF_INSTANCES,
            f"region IoU 0.69, {NEAREST} 0.71; region IoU of instances 0.08, {NEAREST} 0.56; pixel loss 0.52",
        ),
        ("reconstruction", {"loss_pixel": 0.523}, "pixel loss 0.52"),
        (
            "masking",
            {"hidden_foreground": 0.312, "all_foreground": 0.3},
            "31.2% of the hidden patches lie on objects; random masks give 30.0%",
        ),
        (
            "masking",
            {"hidden_foreground": 0.312, "all_foreground": 0.3, "hidden_elsewhere": 0.305},
            "31.2% of the hidden patches lie on objects; random masks give 30.0%, the same masks on other "
            "images' objects 30.5%",
        ),
        ("masking", {}, "masking"),
        (
            "knn",
            {"top1": 26.9, "top5": 60.0, "commonest": 9.1},
            "k-NN top-1 26.9 %; always naming the commonest class gives 9.1 %",
        ),
        ("bbox", {"AP": 6.41, "AP50": 9.0}, "bbox AP 6.41"),
        ("own", {"x": 1.0}, "own"),
        ("own", 3, "own 3"),
    ],
)
def test_sentences(task, metrics, expected):
    assert result_sentence(task, metrics) == expected


def test_a_patch_of_unit_variance_has_a_baseline():
    said = result_sentence("reconstruction", {"loss_pixel": 0.523}, norm_pix_loss=True)
    assert said == "pixel loss 0.52, each patch's own mean colour gives 1.00"
