"""From the command line to a listening server, and to its end."""

import signal
import socket
import sys

import httpx
import pytest

from rmae_d2.demo import run_demo
from rmae_d2.demo.serve import names_of
from rmae_d2.errors import UserError


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
    with pytest.raises(UserError, match=r"pip install 'rmae_d2\[demo\]'"):
        run_demo(weights)


def test_only_an_open_address_warns(capsys):
    assert "localhost" in names_of("127.0.0.1") and "localhost" in names_of("::1")
    assert capsys.readouterr().err == ""
    assert names_of("0.0.0.0") == ("*",)
    assert "warning: --host 0.0.0.0: everybody" in capsys.readouterr().err


def test_ctrl_c_ends_the_command(command):
    with httpx.Client(base_url=command.url) as client:
        assert client.get("/").status_code == 200  # a connection that stays open
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address) as tab:  # closed in the middle of an upload
            tab.sendall(b"POST /api/images HTTP/1.1\r\nHost: localhost\r\n")
            tab.sendall(b"Content-Length: 99\r\n\r\nsome")
        assert command.end(signal.SIGINT) == (0, "stopped\n", "")
