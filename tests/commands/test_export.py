"""The command's options, and the files that it is given."""

import pytest

from tests.helpers import save_run, write_photos

pytest.importorskip("onnxruntime", reason="pip install rmae_d2[onnx]")


def test_a_run_to_a_file(cli, tmp_path):
    (tmp_path / "run").mkdir()
    save_run(tmp_path / "run")
    photos = write_photos(tmp_path / "photos", 2)
    file = tmp_path / "encoder.onnx"
    line = ("--output", str(file), "--images", str(photos), "train.device=cpu")
    code, out, error = cli("export", str(tmp_path / "run"), *line)
    assert code == 0, error
    assert "largest differences from PyTorch on 2 photos" in out and file.stat().st_size > 10_000


def test_wrong_files(cli, tmp_path):
    code, _, error = cli("export", str(tmp_path), "--output", str(tmp_path / "x.pth"))
    assert code == 1 and "--format onnx is written to *.onnx" in error
    code, _, error = cli("export", str(tmp_path), "--output", str(tmp_path / "x.onnx"))
    assert (
        code == 1
        and error.count("\n") == 1
        and "no weights in it: neither model_final.pth, " in error
    )
