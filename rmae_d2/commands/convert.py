"""Converts weights of one project into another's format.

    rmae-d2 convert --input output/model_final.pth --output backbone.pth --to detectron2
    rmae-d2 convert --input mae_pretrain_vit_base.pth --output rmae.pth --to rmae
    rmae-d2 convert --input model_final.pth --output model.safetensors --to huggingface
    rmae-d2 convert --input output/rmae/model_final.pth --output small/model.safetensors --to rmae --half

Reads files of MAE, DINO, DINOv2, DeiT, I-JEPA, MoCo v3, SAM, R-MAE's published code, timm, Hugging Face,
MMPretrain, Detectron2 (.pkl too) and our own, recognised by their keys; no code in a file is run. FILE may be
a name on the Hugging Face hub (hf://ORG/NAME) or in timm (timm://MODEL), or an address (https://...). Prints
what was copied, what only the target has (new by design), what it has no use for (dropped by design),
and what is refused: then nothing is written and the exit status is 1 (2 for a wrong command line).

Output formats: detectron2, a backbone that any Detectron2 ViTDet loads, in a .pth; mae, the official
names; rmae, a checkpoint of this package, with the run's config.yaml next to it if INPUT has one, without
its absolute paths; timm, a state dict of VisionTransformer with num_classes=0 (class_token=False if
the input has no cls token); huggingface, of ViTMAEForPreTraining, or of ViTMAEModel if the input has no
decoder; dinov2, of Dinov2Model and Dinov2Backbone; mmpretrain and mmsegmentation, state dicts of their
VisionTransformer. docs/weights.md explains how to load them.
"""

import argparse

from ..config.ranges import COUNT
from . import options
from .options import UsageError

TARGETS = (
    *("detectron2", "mae", "rmae", "timm"),
    *("huggingface", "dinov2", "mmpretrain", "mmsegmentation"),
)


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--input", required=True, metavar="FILE", help="weights to convert")
    what = "the .pth, .pt, .bin or .safetensors to write"
    options.output(parser, folder=False, required=True, type=str, help=what)
    add("--to", required=True, choices=TARGETS, help="target format")
    size = parser.add_mutually_exclusive_group()
    for name, to in (("--grid", "GH [GW] patches"), ("--img-size", "those of H [W] pixels")):
        what = f"resize position embeddings to {to}"
        size.add_argument(name, type=options.integer(COUNT), nargs="+", metavar="N", help=what)
    what = "drop input tensors matching this name, e.g. '*.rel_pos_?'; repeatable"
    add("--drop", action="append", default=[], metavar="PATTERN", help=what)
    what = "create a cls token and a final norm if only the target has them"
    add("--fill", action="store_true", help=what)
    what = "Hugging Face's names: 4 as on the hub, 5 as in a state_dict (default: installed)"
    add("--transformers", type=int, choices=(4, 5), help=what)
    what = "fp16: half the size; load_state_dict converts it back to fp32"
    add("--half", action="store_true", help=what)
    add("--force", action="store_true", help="overwrite the output")


def run(args: argparse.Namespace) -> None:
    sizes = {"--grid": args.grid, "--img-size": args.img_size}
    for name, values in sizes.items():
        if values and len(values) > 2:
            raise UsageError(f"{name} takes one or two numbers")
    grid, img_size = ((values[0], values[-1]) if values else None for values in sizes.values())
    from ..checkpoint import check_output, convert, save_conversion

    check_output(args.output, args.to, args.force)
    done = (args.drop, args.fill, args.transformers, args.half)
    conversion = convert(args.input, args.to, grid, img_size, *done)
    print(conversion)
    for path in save_conversion(conversion, args.output, args.force):
        print(f"written: {path.resolve()}")
