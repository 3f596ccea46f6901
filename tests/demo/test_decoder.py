"""Images decoded in processes that can be ended."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from rmae_d2.demo.decoder import Decoder
from rmae_d2.demo.requests import RefusedError, decode_image
from tests.demo.files import encoded, picture
from tests.helpers import HUNG, ROOT, wait_for


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_it_gives_what_is_decoded_here(image_format):
    data = encoded(picture(1), image_format)
    pixels = Decoder(20_000)(bytearray(data))
    assert np.array_equal(pixels, decode_image(data, 20_000)) and pixels.flags.writeable


def test_its_process_needs_no_torch():
    code = "import sys, rmae_d2.demo.decoder; print('torch' in sys.modules, 'starlette' in sys.modules)"
    line = [sys.executable, "-c", code]
    found = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "False False\n"


def test_refusals_come_through():
    for data, status, says in (
        (b"text", 415, "not an image"),
        (encoded(picture()), 413, "megapixels"),
        (encoded(picture(0, (8, 9)))[:-60], 422, "damaged"),
    ):
        with pytest.raises(RefusedError, match=says) as caught:
            Decoder(100)(data)
        assert caught.value.status == status


def test_what_takes_too_long_is_ended_and_let_go():
    data = bytearray(encoded(picture()))
    with pytest.raises(RefusedError, match="more than 0.001 seconds") as caught:
        Decoder(20_000, seconds=0.001)(data)
    data.clear()  # BufferError where something still reads it
    assert caught.value.status == 422


def test_a_process_that_dies_is_told(monkeypatch):
    decoder = Decoder(20_000)
    decoder._command[2] = "import os; os.abort()"
    with pytest.raises(RefusedError, match="could not decode") as caught:
        decoder(encoded(picture()))
    assert caught.value.status == 503


def test_closing_ends_what_is_being_decoded():
    decoder = Decoder(20_000, seconds=HUNG)
    decoder._command[2] = "import time; time.sleep(3600)"
    told = []

    def decode():
        try:
            decoder(encoded(picture()))
        except RefusedError as error:
            told.append(error.status)

    threads = [threading.Thread(target=decode) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(decoder._running) == 2)
    decoder.close()
    decode()  # begun too late
    for thread in threads:
        thread.join(HUNG)
    assert len(told) == 3 and not decoder._running
