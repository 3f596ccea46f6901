"""The command's options, and that it goes on after a kill."""

import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import numpy as np
import pytest

from tests.helpers import HUNG, wait_for

pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def slow_photo(tmp_path, make_photos):
    """The address of a photo that arrives when the event is set, and that event."""
    content = next(make_photos(tmp_path / "there", 1).iterdir()).read_bytes()
    arrives = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            arrives.wait(HUNG)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/last.jpg", arrives
    arrives.set()
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_killed_process_goes_on_where_it_was(tmp_path, make_photos, slow_photo, cli, monkeypatch):
    """Killed while it waits for the last photo; what was done is not done again."""
    address, arrives = slow_photo
    photos = sorted(make_photos(tmp_path / "photos", 80).iterdir())
    photos[3].write_bytes(b"no image")
    (tmp_path / "list.txt").write_text("\n".join([*map(str, photos), address]))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    env["FVCORE_CACHE"] = str(tmp_path / "cache")
    line = [sys.executable, "-m", "rmae_d2", "embed", "list.txt", "--batch-size", "2"]
    line += ["--patches", "--device", "cpu", "--output"]

    def start(output):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*line, output], cwd=tmp_path, env=env, **pipes)

    process = start("x.parquet")
    parts = tmp_path / "x.parquet.parts"
    expected = {"000000000.parquet", "000000032.parquet"}

    def two_parts():
        assert process.poll() is None, process.communicate()[0]
        return parts.is_dir() and expected <= {path.name for path in parts.iterdir()}

    wait_for(two_parts, HUNG)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=HUNG)
    assert not (tmp_path / "x.parquet").exists()
    arrives.set()
    again = start("x.parquet")
    output, _ = again.communicate(timeout=HUNG)
    assert again.returncode == 0, output
    assert "going on from x.parquet.parts, where 2 of 3 parts are" in output
    assert "skipped 1 of 81 images, named above" in output
    assert not parts.exists()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FVCORE_CACHE", env["FVCORE_CACHE"])
    assert cli(*line[3:], "y.parquet")[0] == 0
    one, other = (pq.read_table(f"{name}.parquet") for name in "xy")
    assert one.num_rows == 80 and one.schema.equals(other.schema, check_metadata=True)
    assert one.drop(["features", "patches"]).equals(other.drop(["features", "patches"]))
    for name in ("features", "patches"):
        ours, theirs = (t[name].combine_chunks().flatten().to_numpy(False) for t in (one, other))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=4e-3 if name == "patches" else 1e-5)
    names = [str(path) for path in photos if path != photos[3]]
    assert one["file_name"].to_pylist() == [*names, address]


def test_parts_of_another_command_do_not_count(tmp_path, make_photos, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "photos", 3)
    assert cli("embed", "photos", "--output", "x.parquet", "--device", "cpu")[0] == 0
    table = pq.read_table("x.parquet")
    os.mkdir("x.parquet.parts")
    pq.write_table(table.slice(0, 1), "x.parquet.parts/000000000.parquet")
    assert cli("embed", "photos", "--output", "x.parquet", "--device", "cpu")[0] == 0
    assert pq.read_table("x.parquet").equals(table)


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--batch-size", "0"], 2, "argument --batch-size: 0: 1 or more"),
        (["--size", "96", "96", "3"], 2, "--size takes one or two numbers"),
        (["--layer", "9"], 1, "layers=[9]: a number of last blocks, 1 to 6, or a list"),
        (
            ["--weights", "output/none"],
            1,
            "error: output/none: no such folder or weight file; taken",
        ),
    ],
)
def test_wrong_options(cli, more, code, says, tmp_path, make_photos, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    make_photos(tmp_path / "photos", 1)
    found, _, error = cli("embed", "photos", "--output", "x.parquet", *more)
    assert found == code and says in error and error.count("\n") < 12
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
