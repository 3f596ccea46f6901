"""Decode uploads in separate processes that can be killed: some small files take minutes."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .requests import RefusedError, decode_image

DECODE_SECONDS = 15.0

# Not through multiprocessing, which would run the user's own script again.
_CODE = "import sys; sys.path[:] = {!r}; from rmae_d2.demo.decoder import main; main({})"


class Decoder:
    """Runs `decode_image` on an upload in a new process; thread-safe.

    Args:
        max_pixels: limit for an image.
        seconds: time after which a process is killed.
    """

    def __init__(self, max_pixels: int, seconds: float = DECODE_SECONDS) -> None:
        self._command = [sys.executable, "-c", _CODE.format(sys.path, max_pixels)]
        self._seconds = seconds
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def __call__(self, data: Any) -> NDArray[np.uint8]:
        """Decode bytes or a bytearray. RefusedError: as for ``decode_image``, or on a timeout."""
        with subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches only the server, which then closes this
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
        """Kill all decoding processes."""
        self._closed = True
        for process in list(self._running):
            process.kill()

    def _exchange(self, process: subprocess.Popen[bytes], data: Any) -> bytes | None:
        """The process's answer; None on a timeout. Nothing holds the data afterwards."""
        try:
            return process.communicate(data, self._seconds)[0]
        except subprocess.TimeoutExpired:
            return None


def _unpacked(output: bytes) -> NDArray[np.uint8]:
    head, found, pixels = output.partition(b"\n")
    if not found:  # e.g. the system killed it for lack of memory
        raise RefusedError(503, "The server could not decode this image. Save it smaller.")
    said = json.loads(head)
    if "refused" in said:
        raise RefusedError(*said["refused"])
    return np.frombuffer(bytearray(pixels), np.uint8).reshape(said["shape"])


def main(max_pixels: int) -> None:
    """Entry point of the process: an upload on stdin becomes a line of JSON and pixels on stdout."""
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
