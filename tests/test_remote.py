"""Files of object stores and web servers: both on this machine, with and without trouble."""

import json
import os
import re
import subprocess
import sys
import urllib.request

import pytest
from torch.utils.data import DataLoader

from rmae_d2 import remote
from rmae_d2.errors import RemoteError, UserError
from rmae_d2.extras import how_to_install
from rmae_d2.files import atomic_file, exists, is_file, opened, read_bytes, read_text
from rmae_d2.members import tar_member
from rmae_d2.path_handlers import path_manager
from tests.helpers import ROOT

CONTENT = bytes(range(256)) * 400


def put(web, name="a.bin", content=CONTENT):
    (web.folder / name).write_bytes(content)
    return f"{web.url}/{name}"


def asked(web, method="GET"):
    """The ranges of requests so far, which are forgotten."""
    found = [place for command, _, place in web.said if command == method]
    web.said.clear()
    return found


# ---------------------------------------------------------------- a web server


def test_whole_files_and_ranges(web):
    url = put(web)
    assert remote.read(url) == CONTENT
    assert remote.read_range(url, 10, 300) == CONTENT[10:300]
    assert asked(web) == [None, "bytes=10-299"]
    assert remote.read(url) == CONTENT and remote.read_range(url, 10, 300) == CONTENT[10:300]
    assert web.said == []  # kept
    with pytest.raises(OSError, match=f"has {len(CONTENT)} bytes, not {len(CONTENT) + 1}"):
        remote.read_range(url, 5, len(CONTENT) + 1)
    assert remote.read(put(web, "empty", b"")) == b""


def test_the_doors(web):
    url = put(web, "ä b.txt", "grüße\n".encode())
    assert read_bytes(url) == "grüße\n".encode() and read_text(url) == "grüße\n"
    assert is_file(url) and exists(url) and not exists(f"{web.url}/other")
    manager = path_manager()
    with manager.open(url) as file:
        assert file.read() == "grüße\n"
    local = manager.get_local_path(url)
    assert local.endswith(".txt") and read_text(local) == "grüße\n"
    with opened(tar_member(url, 2, 3)) as file:
        assert file.read() == "üß".encode()[:3]
    with pytest.raises(UserError, match=r"lists no folder\. Give a \.txt"):
        remote.files_below(f"{web.url}/folder/")


def test_a_file_that_changed_is_fetched_again(web):
    url = put(web)
    remote.read_range(url, 0, 10)
    put(web, content=CONTENT[::-1])  # of the same length
    remote.forget()  # as in the next process
    assert remote.read_range(url, 0, 10) == CONTENT[::-1][:10]


def test_a_damaged_copy_is_fetched_again(web, remote_cache):
    url = put(web)
    remote.read(url)
    (copy,) = [path for path in remote_cache.rglob("*") if path.is_file()]
    copy.write_bytes(copy.read_bytes()[:-1] + b"?")
    assert remote.read(url) == CONTENT
    assert asked(web) == [None, None]


def test_large_files_come_in_pieces(web, monkeypatch):
    monkeypatch.setattr(remote, "_PIECE", 50_000)
    url = put(web)
    assert remote.read(url) == CONTENT
    assert asked(web) == ["bytes=0-49999", "bytes=50000-99999", "bytes=100000-102399"]
    with open(remote.local_path(url), "rb") as file:
        assert file.read() == CONTENT


def test_a_server_without_ranges_or_lengths(web, monkeypatch):
    monkeypatch.setattr(remote, "_PIECE", 50_000)
    url = put(web)
    web.trouble = lambda number, method, path: "whole"
    assert remote.read(url) == CONTENT
    with pytest.raises(RemoteError, match="sends all of the file when asked for a part"):
        remote.read_range(url, 1, 300)
    remote.forget()
    web.trouble = lambda number, method, path: "silent"
    url = put(web, "b.bin", CONTENT[:1000])
    assert remote.read(url) == CONTENT[:1000]
    with open(remote.local_path(url), "rb") as file:
        assert file.read() == CONTENT[:1000]


def test_every_tenth_request_fails(web):
    urls = [put(web, f"{k}.bin", CONTENT[k:]) for k in range(25)]
    web.trouble = lambda number, method, path: (
        (500, 503, 429)[number % 3] if not number % 10 else None
    )
    assert [remote.read(url) for url in urls] == [CONTENT[k:] for k in range(25)]


@pytest.mark.parametrize("trouble", ["stall", "cut"])
def test_what_comes_at_the_second_try(web, monkeypatch, trouble):
    monkeypatch.setenv("RMAE_D2_REMOTE_TIMEOUT", "2")
    url = put(web)
    troubled = []

    def once(number, method, path):
        if method == "GET" and not troubled:
            troubled.append(number)
            return trouble
        return None

    web.trouble = once
    assert remote.read_range(url, 7, 5000) == CONTENT[7:5000]
    assert troubled and set(asked(web)) == {"bytes=7-4999"}


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (500, "500"),
        ("cut", "received 145 of 290 bytes"),
        ("stall", "FSTimeoutError"),
    ],
)
def test_what_keeps_failing(web, monkeypatch, trouble, said):
    monkeypatch.setenv("RMAE_D2_REMOTE_TRIES", "2")
    url = put(web)
    remote.read(url)  # its length is known
    asked(web)
    monkeypatch.setenv("RMAE_D2_REMOTE_TIMEOUT", "1")
    web.trouble = lambda number, method, path: trouble
    with pytest.raises(RemoteError, match=rf"a\.bin: no whole answer in 2 tries of 1 s.*{said}"):
        remote.read_range(url, 10, 300)
    assert asked(web) == ["bytes=10-299"] * 2


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (403, r"may not be read \(403 Forbidden\).*~/\.netrc"),
        (401, r"may not be read \(401 Unauthorized\)"),
        (400, "refused with 400"),
    ],
)
def test_what_no_other_try_mends(web, status, said):
    url = put(web)
    web.trouble = lambda number, method, path: status
    with pytest.raises(RemoteError, match=said):
        remote.read(url)
    assert len(web.said) == 2  # HEAD, then GET, once


def test_not_found(web, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"No such file.*nothing\.bin"):
        remote.read(f"{web.url}/nothing.bin")
    monkeypatch.setenv("RMAE_D2_REMOTE_TRIES", "1")
    with pytest.raises(RemoteError, match=r"no whole answer.*nowhere\.invalid"):
        remote.read("http://nowhere.invalid/a.jpg")


@pytest.mark.parametrize(
    ("name", "value"), [("RMAE_D2_REMOTE_TRIES", "none"), ("RMAE_D2_REMOTE_TIMEOUT", "-1")]
)
def test_settings_that_are_none(web, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{name}={value} is not a number above 0"):
        remote.read(f"{web.url}/a")


# ---------------------------------------------------------------- an object store


def test_a_store(s3):
    for name in ("a/1.jpg", "a/b/2.jpg", "c.jpg"):
        s3.put_object(Bucket="photos", Key=name, Body=name.encode() * 100)
    assert remote.read("s3://photos/a/1.jpg") == b"a/1.jpg" * 100
    assert remote.read_range("s3://photos/c.jpg", 2, 9) == b"jpgc.jp"
    assert remote.files_below("s3://photos/a/") == ["1.jpg", "b/2.jpg"]
    assert remote.files_below("s3://photos") == ["a/1.jpg", "a/b/2.jpg", "c.jpg"]
    assert exists("s3://photos/a") and exists("s3://photos/a/") and exists("s3://photos")
    assert not is_file("s3://photos/a") and is_file("s3://photos/c.jpg")
    assert not exists("s3://photos/x")
    manager = path_manager()
    assert manager.ls("s3://photos") == ["a", "c.jpg"] and manager.isdir("s3://photos/a")
    with opened(tar_member("s3://photos/a/1.jpg", 700 - 7, 7)) as file:
        assert file.read() == b"a/1.jpg"


def test_a_store_can_be_written_to(s3):
    with atomic_file("s3://photos/new/a.json") as file:
        file.write(b"[1]")
    assert s3.get_object(Bucket="photos", Key="new/a.json")["Body"].read() == b"[1]"


def test_a_store_says_what_is_wrong(s3, _s3_server, monkeypatch):
    with pytest.raises(FileNotFoundError, match="photos/x.jpg"):
        remote.read("s3://photos/x.jpg")
    with pytest.raises(RemoteError, match="there is no bucket s3://phtos: check its name"):
        remote.read("s3://phtos/x.jpg")
    with pytest.raises(RemoteError, match="cannot be asked for .*check the address"):
        remote.read("s3://no such bucket/x.jpg")

    def check_keys(after: int) -> None:
        request = urllib.request.Request(
            f"{_s3_server}/moto-api/reset-auth",
            str(after).encode(),
            {"Content-Type": "text/plain"},
            method="POST",
        )
        urllib.request.urlopen(request)

    check_keys(0)
    try:
        with pytest.raises(RemoteError, match=r"may not be read \(403 .*set AWS_ACCESS_KEY_ID"):
            remote.read("s3://photos/x.jpg")
    finally:
        check_keys(10**9)


def test_without_credentials(s3, _s3_server, tmp_path):
    s3.put_object(Bucket="photos", Key="a.txt", Body=b"open", ACL="public-read")
    program = "from rmae_d2 import remote; print(remote.read('s3://photos/a.txt'))"
    env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    env |= {
        "AWS_ENDPOINT_URL": _s3_server,
        "HOME": str(tmp_path),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert "there are no credentials: set AWS_ACCESS_KEY_ID" in run.stderr
    env["FSSPEC_S3_ANON"] = "true"
    run = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "b'open'\n", run.stderr


def test_without_the_packages(tmp_path):
    program = """
import sys
sys.modules.update(dict.fromkeys(("s3fs", "aiohttp", "gcsfs")))
from rmae_d2 import remote
for url in ("s3://b/a", "gs://b/a", "https://b/a"):
    try:
        remote.read(url)
    except ValueError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    of_scheme = {"s3": "s3", "gs": "gs", "https": "http"}
    for (scheme, extra), line in zip(of_scheme.items(), run.stdout.splitlines(), strict=True):
        assert re.fullmatch(
            rf"reading {scheme}:// needs more \(.*\): {re.escape(how_to_install(extra))}", line
        )


# ---------------------------------------------------------------- processes


class _Files:
    def __init__(self, urls):
        self.urls = urls

    def __len__(self):
        return len(self.urls)

    def __getitem__(self, k):
        return read_bytes(self.urls[k])


@pytest.mark.parametrize("kind", ["web", "s3"])
def test_workers_that_are_forked_after_a_first_read(request, kind):
    """The event loop's thread of the main process is not theirs."""
    server = request.getfixturevalue(kind)
    contents = [CONTENT[k:] for k in range(8)]
    if kind == "web":
        urls = [put(server, f"{k}.bin", content) for k, content in enumerate(contents)]
    else:
        for k, content in enumerate(contents):
            server.put_object(Bucket="photos", Key=f"{k}.bin", Body=content)
        urls = [f"s3://photos/{k}.bin" for k in range(8)]
    assert remote.read(urls[0]) == contents[0]
    loader = DataLoader(_Files(urls), batch_size=None, num_workers=2)
    for _ in range(2):
        assert list(loader) == contents
    assert remote.read(urls[7]) == contents[7]


def test_jsons_and_members_by_any_reader(s3):
    """Detectron2's own readers come through the same door."""
    s3.put_object(Bucket="photos", Key="a.json", Body=json.dumps({"a": [1]}).encode())
    with path_manager().open("s3://photos/a.json", "r") as file:
        assert json.load(file) == {"a": [1]}
    with path_manager().open(tar_member("s3://photos/a.json", 1, 3), "rb") as file:
        assert file.read() == b'"a"'
    assert path_manager().isfile(tar_member("s3://photos/a.json", 1, 3))
