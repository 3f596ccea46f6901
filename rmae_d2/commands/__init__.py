"""The command line `rmae-d2`: one module per command, without heavy imports at startup.

A command's module has a docstring, its ``--help``; ``arguments(parser)``, which adds its options; and
``run(args)``, which imports what it needs, raises UserError for what a user can fix, and may return
an exit code.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module

from .. import __version__
from ..config import find_config
from ..errors import UserError, did_you_mean
from .options import Parser, UsageError, place_output, take_overrides_out

COMMANDS = {
    "train": "pre-train, fine-tune or evaluate what a config describes",
    "submit": "the same as a Slurm job that requeues itself when its time is up",
    "sweep": "train at all points of a grid of overrides, and compare them",
    "study": "pre-train in several ways, transfer, and compare, with seeds",
    "regions": "make the regions of a dataset's images, once for all runs",
    "pack": "pack images and their regions into indexed tar shards",
    "inspect": "check a dataset, or look into a region store, before training",
    "scenes": "render the small dataset of the demos",
    "predict": "detect objects in photos, or segment them into classes",
    "embed": "features of photos as one table",
    "demo": "interactive segmentation in a browser",
    "evaluate-interactive": "IoU versus number of patches or clicks",
    "evaluate-regions": "region sources versus instance masks: overlap, recall, time",
    "visualize reconstruction": "a model's reconstruction of mostly hidden photos",
    "visualize attention": "what patches attend to, for several models",
    "visualize masking": "the masks that a model chooses",
    "visualize metrics": "metrics of several runs in one picture",
    "report": "one HTML page about a run",
    "export": "write a model as ONNX or torch.export's .pt2, and check it",
    "convert": "convert weights of one project into another's format",
    "analyze": "parameters, multiply-adds and memory of models",
    "benchmark": "time our components against straightforward ones",
    "install-detectron2": "give this environment a Detectron2 without a compiler",
    "doctor": "report what is installed, and how to get what is missing",
}


def main(command: str = "") -> None:
    """Runs this process's command line, for the given command or else the one it begins with, and exits."""
    sys.exit(run([*command.split(), *sys.argv[1:]]))


def run(words: Sequence[str]) -> int:
    """Runs a command line; returns its exit code: 0; 1 for user errors, in one line; 130 for ctrl-C.

    argparse's SystemExit (2 for wrong usage) passes through, and so does any other exception: our bug.
    """
    name, words = _split(words)
    module = import_module(f".{name.replace('-', '_').replace(' ', '_')}", __name__)
    parser = Parser(
        f"rmae-d2 {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.arguments(parser)
    # Overrides may stand between options; subparsers do not support that.
    parse = parser.parse_args if name == "benchmark" else parser.parse_intermixed_args
    args = take_overrides_out(parse(words))
    if logging.lastResort is not None:  # for commands that do not set up logging
        logging.lastResort.setFormatter(logging.Formatter("warning: %(message)s"))
    try:
        if getattr(args, "config_file", None):
            find_config(args.config_file)  # before anything slow
        place_output(args)
        return module.run(args) or 0
    except UsageError as error:
        parser.error(str(error))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _split(words: Sequence[str]) -> tuple[str, list[str]]:
    """Splits off the command's name, of one word or two, from the words after it."""
    for count in (1, 2):
        if (name := " ".join(words[:count])) in COMMANDS:
            return name, list(words[count:])
    group = {n: text for n, text in COMMANDS.items() if n.startswith(f"{' '.join(words[:1])} ")}
    shown = "\n".join(f"  {name:26}{text}" for name, text in (group or COMMANDS).items())
    parser = argparse.ArgumentParser(
        "rmae-d2",
        usage="rmae-d2 COMMAND ...",
        description="R-MAE pre-training of vision transformers, as a Detectron2 extension.",
        epilog=f"commands:\n{shown}\n\n`rmae-d2 COMMAND --help` explains one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rmae_d2 {__version__}")
    parser.parse_known_args(words[1:] if group else words)
    given = " ".join(words[: 2 if group else 1])
    parser.error(
        f"no command {given!r}; {did_you_mean(given, COMMANDS, 'rmae-d2 --help names them', ' ')}"
        if given
        else f"which command?\n{shown}"
    )
