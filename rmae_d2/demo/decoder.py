"""Uploads are decoded in processes of their own, which can be ended: some small files take minutes."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .requests import RefusedError, decode_image

DECODE_SECONDS = 15.0

# Not through multiprocessing, which would run a user's own script again.
_CODE = "import sys; sys.path[:] = {!r}; from rmae_d2.demo.decoder import main; main({})"


class Decoder:
    """`decode_image` of an upload, in a new process; any number of threads may call it.

    Args:
        max_pixels: of an image.
        seconds: after which a process is ended.
    """

    def __init__(self, max_pixels: int, seconds: float = DECODE_SECONDS) -> None:
        self._command = [sys.executable, "-c", _CODE.format(sys.path, max_pixels)]
        self._seconds = seconds
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def __call__(self, data: Any) -> NDArray[np.uint8]:
        """Takes bytes or a bytearray. RefusedError: as ``decode_image``, or it takes too long."""
        with subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the server, which then closes this
        ) as process:
            self._running.add(process)
            output = None if self._closed else self._exchange(process, data)
            process.kill()
            self._running.discard(process)
        if output is None:
            text = f"This image takes more than {self._seconds:g} seconds to decode. Save it anew."
            raise RefusedError(422, text)
        return _unpacked(output)

    def close(self) -> None:
        """Ends all that is being decoded."""
        self._closed = True
        for process in list(self._running):
            process.kill()

    def _exchange(self, process: subprocess.Popen[bytes], data: Any) -> bytes | None:
        """The process's answer; None where it is late. Nothing holds the data after that."""
        try:
            return process.communicate(data, self._seconds)[0]
        except subprocess.TimeoutExpired:
            return None


def _unpacked(output: bytes) -> NDArray[np.uint8]:
    head, found, pixels = output.partition(b"\n")
    if not found:  # as where the system ends it, for memory
        raise RefusedError(503, "The server could not decode this image. Save it smaller.")
    said = json.loads(head)
    if "refused" in said:
        raise RefusedError(*said["refused"])
    return np.frombuffer(bytearray(pixels), np.uint8).reshape(said["shape"])


def main(max_pixels: int) -> None:
    """What the process does: an upload from stdin to a line of JSON and pixels on stdout."""
    pixels = None
    try:
        pixels = decode_image(sys.stdin.buffer.read(), max_pixels)
        head: dict[str, object] = {"shape": pixels.shape}
    except RefusedError as error:
        head = {"refused": [error.status, error.message, error.code]}
    sys.stdout.buffer.write(json.dumps(head).encode() + b"\n")
    if pixels is not None:
        sys.stdout.buffer.write(pixels.tobytes())
    sys.stdout.buffer.flush()
