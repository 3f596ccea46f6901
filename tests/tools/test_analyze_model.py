import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRETRAIN = ROOT / "configs/pretrain"


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, str(ROOT / "tools/analyze_model.py"), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_one_model_with_an_override(tmp_path):
    done = run(
        "--config-file", PRETRAIN / "rmae_vitb.py", "model.region_branch.neck_depth=8", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "| all | 113.738 | 10.24" in done.stdout
    assert "MiB an image" in done.stdout


def test_table(tmp_path):
    done = run("--table", PRETRAIN / "mae_vitb.py", PRETRAIN / "rmae_vitb.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    _, _, mae, rmae = done.stdout.splitlines()
    assert "| 111.66 | 9.675 | +0.00 % |" in mae and "| 112.35 | 9.903 | +2.36 % |" in rmae


def test_a_detector(tmp_path):
    done = run("--config-file", ROOT / "configs/demo/vitdet_tiny_scenes.py", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "no pre-training model" in done.stderr
