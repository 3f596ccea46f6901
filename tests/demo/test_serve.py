"""From the command line to a listening server, and to its end."""

import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from rmae_d2.demo import run_demo
from rmae_d2.demo.serve import names_of
from rmae_d2.errors import UserError
from tests.helpers import HUNG, ROOT, wait_for


def test_a_taken_port_is_one_error(weights):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} .*choose another one with --port"):
            run_demo(weights, port=port)


def test_bad_settings_are_one_error(weights, monkeypatch, tmp_path):
    monkeypatch.setattr("rmae_d2.demo.serve._serve", lambda *_: pytest.fail("it serves"))
    (tmp_path / "text.png").write_text("text")
    for settings, text in (
        ({"port": 70000}, "--port 70000"),
        ({"host": "no.such.host.invalid"}, "--host no.such.host.invalid"),
        ({"mask_ratio": 2.0}, "--mask-ratio 2.0"),
        ({"examples": [str(tmp_path / "text.png")]}, "text.png: This file is not an image"),
    ):
        with pytest.raises(UserError, match=text):
            run_demo(weights, **{"port": 0, **settings})
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"pip install 'starlette>=.* 'uvicorn>="):
        run_demo(weights)


def test_only_an_open_address_warns(capsys):
    assert "localhost" in names_of("127.0.0.1") and "localhost" in names_of("::1")
    assert capsys.readouterr().err == ""
    assert names_of("0.0.0.0") == ("*",)
    assert "warning: --host 0.0.0.0: everybody" in capsys.readouterr().err


def children(pid):
    """Numbers of a process's own processes, whichever of its threads began them."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [number for task in tasks for number in task.read_text().split()]


@pytest.mark.slow
def test_ctrl_c_ends_what_is_being_decoded(weights):
    """In a process whose decoders hang; no traceback for any request."""
    code = (
        "import rmae_d2.demo.decoder as d; d._CODE = 'import time; time.sleep(3600) # {} {}'\n"
        "from rmae_d2.demo import run_demo\n"
        "try: run_demo(sys.argv[1], port=0, device='cpu')\n"
        "except KeyboardInterrupt: print('stopped')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys\n" + code, str(weights)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    port = int(process.stdout.readline().split(" (")[0].rpartition(":")[2])
    with ExitStack() as stack:
        uploads = []
        for _ in range(4):
            upload = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            upload.sendall(
                b"POST /api/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nsome"
            )
            uploads.append(upload)
        wait_for(lambda: children(process.pid))
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=HUNG)
        answers = [upload.recv(10_000) for upload in uploads]
    assert (process.returncode, output) == (0, "stopped\n")
    assert "Traceback" not in errors and len(errors.splitlines()) <= 1, errors
    # One whose upload had not been read yet is cut off.
    assert {answer[:12] for answer in answers} <= {b"HTTP/1.1 503", b""}
    assert any(answers)


def test_ctrl_c_ends_the_command(command):
    with httpx.Client(base_url=command.url) as client:
        assert client.get("/").status_code == 200  # a connection that stays open
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address) as tab:  # closed in the middle of an upload
            tab.sendall(b"POST /api/images HTTP/1.1\r\nHost: localhost\r\n")
            tab.sendall(b"Content-Length: 99\r\n\r\nsome")
        assert command.end(signal.SIGINT) == (0, "stopped\n", "")


def test_the_packages_weights_by_default(shipped, start):
    command = start()
    assert command.first_line.startswith("serving rmae-d2://rmae_scenes at http://127.0.0.1:")
    example = httpx.get(f"{command.url}/api/examples/0").content
    opened = httpx.post(f"{command.url}/api/images", content=example, timeout=HUNG)
    assert opened.status_code == 201 and opened.json()["grid"] == [8, 8]
    assert command.end(signal.SIGINT) == (0, "stopped\n", "")
