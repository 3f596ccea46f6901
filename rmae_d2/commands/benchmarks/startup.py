"""Startup cost of commands, before they do anything."""

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial

from ...tables import table
from .common import race

CONFIG = "demo/rmae_tiny_scenes.py"
TORCH = "import torch"
READ = f"import torch; from rmae_d2.config import load_config; load_config({CONFIG!r})"
COMMANDS = {
    "--help": ["--help"],
    "--version": ["--version"],
    "train --help": ["train", "--help"],
    "a misspelt command": ["trian"],
    "a missing config": ["train", "--config-file", "demo/rmae_tiny_scnes.py"],
    "a misspelt override": ["train", "--config-file", CONFIG, "trian.max_iter=3"],
}


def run(args: argparse.Namespace) -> None:
    """Measures CPU seconds, which other work on the machine affects little."""
    rows = {TORCH: ["-c", TORCH], "torch, and reading the config": ["-c", READ]}
    rows |= {f"rmae-d2: {name}": ["-m", "rmae_d2", *words] for name, words in COMMANDS.items()}
    best = race({name: partial(_start, words) for name, words in rows.items()}, args.repeat, _spent)
    torch, read = list(best.values())[:2]
    headers = ["started", "CPU s", "/ import torch", "/ torch and config"]
    print(table(headers, [[name, s, s / torch, s / read] for name, s in best.items()], digits=3))


def _start(words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as elsewhere:
        subprocess.run([sys.executable, *words], capture_output=True, check=False, cwd=elsewhere)


def _spent() -> float:
    """Returns CPU seconds of all ended child processes."""
    return sum(os.times()[2:4])
