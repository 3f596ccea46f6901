r"""Detects objects in photos, or segments them into classes: pictures, and COCO results or label images.

    rmae-d2 predict --config-file coco/mask_rcnn_vitdet_b_100ep.py \
        --weights output/x/model_final.pth --input FOLDER --output DIR
    rmae-d2 predict --config-file output/x/config.yaml --weights output/x/model_final.pth \
        --input a.jpg b.jpg --output DIR --score-threshold 0.3 train.device=cpu

DIR gets a picture of every readable image, predictions.json in COCO's results format, and images.json, which
maps its ids to files: COCO("images.json").loadRes("predictions.json"). Images of a COCO json keep their ids;
others are numbered from 1. predictions.json keeps everything the model returns (by default scores of 0.05 or
more: model.roi_heads.box_predictor.test_score_thresh), whatever --score-threshold.

A config of semantic segmentation (configs/ade20k) gives pictures with a legend, and labels/*.png, 8 bits per
pixel, with the values of the ground truth that the config reads: those of ADE20K's official release are 1 to
150. images.json names the classes by these values.

    rmae-d2 predict --proposals --weights output/rmae --input FOLDER --output DIR points_per_side=32

needs no detector: for a grid of points, the region branch of a pre-trained R-MAE proposes masks of objects of
any class. The settings are those of the region source `proposals`.

Without --config-file, the config.yaml next to the weights is used. An exported model (rmae-d2 export, .onnx)
needs neither a config nor Detectron2; pictures of objects are drawn only if Detectron2 is installed.
"""

import argparse
import logging

from ..config.ranges import COUNT, SHARE
from ..errors import UserError
from . import options


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    options.config_file(parser)
    what = "model_final.pth or another file with all its tensors, or a file from rmae-d2 export (.onnx)"
    add("--weights", required=True, help=what)
    what = (
        "image files, a folder (with sub-folders), a .txt list, a COCO .json ... (docs/labels.md)"
    )
    add("--input", required=True, nargs="+", metavar="IMAGES", help=what)
    what = "folder to write to; created if needed"
    options.output(parser, folder=True, required=True, type=str, metavar="DIR", help=what)
    what = "for detections: minimum score shown in pictures (default %(default)s)"
    add("--score-threshold", type=options.real(SHARE), default=0.5, metavar="S", help=what)
    add("--max-images", type=options.integer(COUNT), metavar="N", help="only the first N images")
    what = "masks of objects of any class, by a pre-trained R-MAE instead of a detector"
    add("--proposals", action="store_true", help=what)
    add("--no-pictures", dest="pictures", action="store_false", help="predictions only")
    add("--image-root", help="folder of the json's images, if they are not found otherwise")
    options.overrides(parser)


def run(args: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    given = dict(vars(args))
    given["given"] = given.pop("input")
    if given.pop("proposals"):
        from ..inference.prediction_run import predict_proposals

        if given.pop("config_file"):
            raise UserError(
                "--proposals takes the config beside the weights: leave out --config-file"
            )
        predict_proposals(settings=given.pop("overrides"), **given)
        return
    if args.weights.lower().endswith(".onnx"):
        from ..deploy.run import predict_exported

        config_file, overrides = given.pop("config_file"), given.pop("overrides")
        if config_file or overrides:
            named = f"--config-file {config_file}" if config_file else " ".join(overrides)
            raise UserError(f"{args.weights} holds all its settings: leave out {named}")
        predict_exported(**given)
        return
    if args.weights.lower().endswith(".pt2"):
        text = (
            "a program for torch.export.load: predict takes an .onnx, or the weights it was made of"
        )
        raise UserError(f"{args.weights}: {text}")
    from ..inference.prediction_run import predict_files

    predict_files(**given)
