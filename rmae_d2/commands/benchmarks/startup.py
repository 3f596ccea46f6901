"""What commands cost before they do anything."""

import argparse
import os
import subprocess
import sys
import tempfile

from ...tables import table

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
    """CPU seconds, for what else the machine does adds little to these."""
    rows = {TORCH: ["-c", TORCH], "torch, and reading the config": ["-c", READ]}
    rows |= {f"rmae-d2: {name}": ["-m", "rmae_d2", *words] for name, words in COMMANDS.items()}
    best = dict.fromkeys(rows, float("inf"))
    for _ in range(args.repeat):
        for name, words in rows.items():
            best[name] = min(best[name], _cpu_seconds(words))
    torch, read = list(best.values())[:2]
    print(
        table(
            ["started", "CPU s", "/ import torch", "/ torch and config"],
            [[name, s, s / torch, s / read] for name, s in best.items()],
            digits=3,
        )
    )


def _cpu_seconds(words: list[str]) -> float:
    before = os.times()
    with tempfile.TemporaryDirectory() as elsewhere:
        subprocess.run([sys.executable, *words], capture_output=True, check=False, cwd=elsewhere)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])
