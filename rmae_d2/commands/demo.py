r"""Interactive segmentation in a browser: mark a few patches, and the model completes the region.

    rmae-d2 demo
    rmae-d2 demo --weights output/rmae/model_final.pth

prints an address to open. The model is the small R-MAE shipped with the package or, with --weights, that
of a run, built from the config.yaml next to them. Images stay on the serving machine, in memory only.
Needs Starlette and uvicorn (the extra demo).
"""

import argparse
import contextlib

from ..config.ranges import POSITIVE, Range
from . import options
from .evaluate_interactive import prompting


def arguments(parser: argparse.ArgumentParser) -> None:
    options.trained(parser)
    prompting(parser)
    add = parser.add_argument
    add("--port", type=options.integer(Range(0, 65535)), default=7860, help="0 for any free port")
    add("--host", default="127.0.0.1", help="default: reachable from this machine only")
    add("--examples", nargs="+", default=[], help="images to offer, or folders")
    add("--max-megabytes", type=options.real(POSITIVE), default=20, help="limit for uploads")
    add("--max-megapixels", type=options.real(POSITIVE), default=25, help="limit for images")


def run(args: argparse.Namespace) -> None:
    from ..demo import Limits, run_demo

    given = dict(vars(args))
    upload_bytes = int(given.pop("max_megabytes") * 1e6)
    limits = Limits(upload_bytes=upload_bytes, pixels=int(given.pop("max_megapixels") * 1e6))
    with contextlib.suppress(KeyboardInterrupt):
        run_demo(limits=limits, **given)
    print("stopped")  # even without an interrupt: a caller may have told this process to ignore it
