"""The shims: what they repair is broken without them, and nothing else changes."""

import subprocess
import sys

import numpy as np
import pytest

from rmae_d2 import compat


def test_lvis_runs_on_this_numpy(tmp_path):
    """In a process of its own, where nothing has repaired lvis yet."""
    code = (
        "import json, numpy\n"
        "from lvis import LVIS, LVISEval, LVISResults\n"
        "from rmae_d2 import compat\n"
        "box = {'image_id': 1, 'category_id': 1, 'bbox': [1, 1, 5, 5]}\n"
        "content = {\n"
        "    'images': [{'id': 1, 'height': 9, 'width': 9, 'neg_category_ids': [],\n"
        "                'not_exhaustive_category_ids': []}],\n"
        "    'categories': [{'id': 1, 'frequency': 'f'}],\n"
        "    'annotations': [{**box, 'id': 1, 'area': 25}],\n"
        "}\n"
        "json.dump(content, open('x.json', 'w'))\n"
        "def run():\n"
        "    truth = LVIS('x.json')\n"
        "    evaluation = LVISEval(truth, LVISResults(truth, [{**box, 'score': 1.0}]), 'bbox')\n"
        "    evaluation.run()\n"
        "    return evaluation.get_results()['AP']\n"
        "try: print(run())\n"
        "except AttributeError as error: print('broken:', error)\n"
        "before = set(vars(numpy))\n"
        "compat.fix_lvis(); compat.fix_lvis()\n"
        "print(run(), hasattr(numpy, 'float'), set(vars(numpy)) == before)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    without, repaired = run.stdout.splitlines()[0], run.stdout.splitlines()[-1]
    if np.lib.NumpyVersion(np.__version__) >= "1.24.0":
        assert without.startswith("broken: module 'numpy' has no attribute 'float'")
    ap, has_float, same = repaired.split()
    assert float(ap) == pytest.approx(1) and (has_float, same) == ("False", "True")


def test_this_detectron2_is_recent_enough():
    compat.check_detectron2()
