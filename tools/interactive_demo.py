#!/usr/bin/env python
r"""Interactive segmentation in a browser: mark a few patches, see the region that the model completes.

    python tools/interactive_demo.py --weights output/demo/rmae_tiny_scenes/model_final.pth

prints an address to open. The config.yaml beside the weights says what the model is. Images stay on the
machine that serves them, in memory only. Needs `pip install rmae_d2[demo]`.
"""

import argparse
import logging
import sys

from rmae_d2.demo import Limits, run_demo
from rmae_d2.errors import UserError


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", required=True, help="a run's checkpoint")
    parser.add_argument("--config-file", help="of the run; default: config.yaml beside the weights")
    parser.add_argument("--port", type=int, default=7860, help="0 for any that is free")
    parser.add_argument("--host", default="127.0.0.1", help="default: reached from here only")
    parser.add_argument("--examples", nargs="+", default=[], help="images to offer, or folders")
    parser.add_argument(
        "--mask-ratio", type=float, default=0.0, help="pixel patches hidden at first"
    )
    parser.add_argument(
        "--resolution",
        choices=("resize", "interpolate", "window"),
        default="resize",
        help="how images of another size than the model's are taken",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ...")
    parser.add_argument("--max-megabytes", type=float, default=20, help="of an uploaded file")
    parser.add_argument("--max-megapixels", type=float, default=25, help="of an uploaded image")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    try:
        run_demo(
            args.weights,
            args.config_file,
            host=args.host,
            port=args.port,
            examples=args.examples,
            mask_ratio=args.mask_ratio,
            resolution=args.resolution,
            device=args.device,
            limits=Limits(
                upload_bytes=int(args.max_megabytes * 1e6), pixels=int(args.max_megapixels * 1e6)
            ),
        )
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        pass
    print("stopped")  # without an interrupt, too: a caller may have told this process to ignore it


if __name__ == "__main__":
    main()
