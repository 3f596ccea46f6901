#!/usr/bin/env python3
"""`rmae-d2 install-detectron2`, by the name it had first; runs before anything is installed."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    package = Path(__file__).resolve().parents[1] / "rmae_d2"
    runpy.run_path(str(package / "commands/install_detectron2.py"), run_name="__main__")
