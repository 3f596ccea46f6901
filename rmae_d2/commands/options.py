"""Options shared by commands."""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ..config.ranges import COUNT, NOT_NEGATIVE, Range
from ..errors import UserError, did_you_mean
from ..files import check_output
from ..shipped import DEFAULT


class UsageError(UserError):
    """A command line with incompatible options; reported together with the usage."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that suggests corrections for unknown options."""

    def error(self, message: str) -> NoReturn:
        words = message.partition("unrecognized arguments: ")[2].split()
        below = [a.choices for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        parsers = [self, *(parser for choices in below for parser in choices.values())]
        known = {o for p in parsers for o in p._option_string_actions if o.startswith("--")}
        for word in words:
            if word.startswith("--"):
                option = re.sub("=.*", "", word).replace("_", "-")
                message += f"; {word}: {did_you_mean(option, known, 'no such option', ' ')}"
        super().error(message)


def integer(range_: Range) -> Callable[[str], int]:
    """Returns the type of an option that accepts integers in a range."""
    return _number(int, range_)


def real(range_: Range) -> Callable[[str], float]:
    """Returns the type of an option that accepts numbers in a range."""
    return _number(float, range_)


def _number(type_: Callable[[str], Any], range_: Range) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = type_(text)
        if value not in range_:
            raise argparse.ArgumentTypeError(f"{text}: {range_}")
        return value

    parse.__name__ = type_.__name__  # for argparse's own message
    return parse


def output(
    parser: argparse.ArgumentParser, name: str = "", beside: str = "", *, folder: bool, **more: Any
) -> None:
    """Adds the output option: a folder or a file, by default ``name`` next to its input.

    Args:
        beside: the argument that names the input: a file, a folder, or several, of which the first counts.
            If it is remote, or shipped with the package, the working directory is used.
        more: passed to ``add_argument``.
    """
    if beside:
        place = f"{name} next to {beside.upper()}"
        if beside == "weights":
            place += "; for shipped weights, here"
        what = f"{'folder' if folder else 'file'} to write (default: {place})"
        more = {"help": what, **more}
    parser.add_argument("--output", **{"type": Path, **more})
    parser.set_defaults(output_rule=(name, beside, folder))


def place_output(args: argparse.Namespace) -> None:
    """Completes ``args.output`` by its command's rule; UserError if it cannot be written."""
    rule = vars(args).pop("output_rule", None)
    if rule is None:
        return
    name, beside, folder = rule
    if args.output is None:
        made_from = getattr(args, beside)
        first = str(made_from[0] if isinstance(made_from, list) else made_from)
        where = Path() if "://" in first else Path(first)
        args.output = (where if where.is_dir() else where.parent) / name
    check_output(args.output, folder=folder)


def config_file(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Adds the option for a config file, also looked up in the package."""
    where = (
        "such as pretrain/rmae_vitb.py"
        if required
        else "by default config.yaml next to the weights"
    )
    parser.add_argument("--config-file", required=required, metavar="FILE", help=f"config, {where}")


def weights(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Adds a run's weights, or those of several runs to compare; by default the shipped R-MAE."""
    what = f"checkpoint of a run (default: {DEFAULT}, the R-MAE shipped with the package)"
    more: dict[str, Any] = {"default": DEFAULT}
    if several:
        what = what.replace("checkpoint of a run", "checkpoints of runs")
        more = {"default": [DEFAULT], "nargs": "+"}
    parser.add_argument("--weights", metavar="FILE", help=what, **more)
    if several:
        parser.add_argument("--names", nargs="+", default=[], help="one title per file")


def trained(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Adds weights of pre-training runs, and their config."""
    weights(parser, several=several)
    config_file(parser)


def photos(parser: argparse.ArgumentParser, max_images: int) -> None:
    """Adds photos and config overrides."""
    add = parser.add_argument
    add("--input", nargs="+", required=True, help="photos, folders, lists, jsons")
    add("--max-images", type=integer(COUNT), default=max_images, help="maximum number of images")
    add("--seed", type=integer(NOT_NEGATIVE), default=0, help="seed of the masks")
    overrides(parser)


def overrides(
    parser: argparse.ArgumentParser, name: str = "overrides", what: str = "of the config"
) -> None:
    """Adds ``key=value`` overrides."""
    parser.add_argument(name, nargs="*", metavar="KEY=VALUE", help=f"overrides {what}")


def device(parser: argparse.ArgumentParser) -> None:
    """Adds the device on which networks run."""
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")


def take_overrides_out(args: argparse.Namespace) -> argparse.Namespace:
    """Moves overrides from ``--input``, which takes everything after it, to the overrides."""
    if isinstance(getattr(args, "input", None), list) and hasattr(args, "overrides"):
        misplaced = [text for text in args.input if "=" in text and not os.path.exists(text)]
        args.overrides += misplaced
        args.input = [text for text in args.input if text not in misplaced]
    return args
