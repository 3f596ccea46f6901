"""Command lines, run in this process."""

import pytest

from rmae_d2 import commands


@pytest.fixture
def cli(capsys):
    """Runs the words after `rmae-d2`: exit code, what it printed, and its errors."""

    def run(*words):
        try:
            code = commands.run([str(word) for word in words])
        except SystemExit as stopped:  # argparse's
            code = stopped.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run
