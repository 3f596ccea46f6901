"""The options that commands share."""

import argparse
import os
from pathlib import Path

from ..errors import UserError


class UsageError(UserError):
    """A command line whose options do not go together: told with the usage."""


def config_file(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """The file of a config, looked for in the package too."""
    where = (
        "such as pretrain/rmae_vitb.py" if required else "by default config.yaml beside the weights"
    )
    parser.add_argument("--config-file", required=required, metavar="FILE", help=f"config, {where}")


def trained(parser: argparse.ArgumentParser) -> None:
    """A run's weights, and its config."""
    parser.add_argument("--weights", required=True, metavar="FILE", help="the run's checkpoint")
    config_file(parser)


def photos(parser: argparse.ArgumentParser, output: str, max_images: int) -> None:
    """Photos, what is drawn of them, and a change of the config."""
    add = parser.add_argument
    add("--input", nargs="+", required=True, help="photos, folders, lists, jsons")
    add("--output", type=Path, default=Path(output), help="to write (default: %(default)s)")
    add("--max-images", type=int, default=max_images, help="the first so many")
    add("--seed", type=int, default=0, help="of the masks")
    overrides(parser)


def overrides(
    parser: argparse.ArgumentParser, name: str = "overrides", what: str = "of the config"
) -> None:
    """``key=value`` words."""
    parser.add_argument(name, nargs="*", metavar="KEY=VALUE", help=f"changes {what}")


def device(parser: argparse.ArgumentParser) -> None:
    """Where networks run."""
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")


def take_overrides_out(args: argparse.Namespace) -> argparse.Namespace:
    """``--input`` takes all that follows it; an override there is no image."""
    if isinstance(getattr(args, "input", None), list) and hasattr(args, "overrides"):
        misplaced = [text for text in args.input if "=" in text and not os.path.exists(text)]
        args.overrides += misplaced
        args.input = [text for text in args.input if text not in misplaced]
    return args
