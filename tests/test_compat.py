"""What other packages must bring."""

import subprocess
import sys

from rmae_d2 import compat


def test_this_detectron2_is_recent_enough():
    compat.check_detectron2()


def test_known_warnings_are_not_shown_and_others_are():
    code = (
        "import logging, warnings, rmae_d2, torch\n"
        "torch.meshgrid(torch.arange(2), torch.arange(3))\n"
        "torch.utils.data.DataLoader([1], num_workers=999)\n"
        "from torch.fx import _symbolic_trace as trace; trace.is_fx_tracing_warning()\n"
        "logging.getLogger('torch.utils.cpp_extension').warning('No CUDA runtime is found, %s', 1)\n"
        "warnings.warn('IProgress not found. Please update', __import__('tqdm').TqdmWarning)\n"
        "logging.getLogger('torch.utils.cpp_extension').warning('another')\n"
        "warnings.warn('a third')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stderr.splitlines() if not line.startswith(" ")]
    assert len(shown) == 2 and "another" in shown[0] + shown[1] and "a third" in shown[0] + shown[1]
