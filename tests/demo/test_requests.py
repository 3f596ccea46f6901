"""Whatever is sent, it is either understood or refused in words: no other error."""

import asyncio
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.data import read_image
from rmae_d2.demo.requests import (
    MAX_SCANS,
    Bodies,
    RefusedError,
    decode_image,
    parse_query,
)
from tests.demo.files import encoded, many_scans, picture

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
PATCHES = st.lists(st.lists(st.integers(-1, 4), min_size=1, max_size=4), max_size=5) | JSON
REGION = st.fixed_dictionaries({"positive": PATCHES}, optional={"negative": PATCHES})
QUERY = st.fixed_dictionaries(
    {"regions": st.lists(REGION, max_size=3)},
    optional={
        "threshold": st.floats(0, 1) | JSON,
        "chosen": st.integers(-1, 3) | JSON,
        "name": JSON,
    },
)


@given(QUERY | JSON)
def test_queries_are_understood_or_refused(query):
    try:
        found = parse_query(json.dumps(query).encode(), (3, 4), 2)
    except RefusedError as error:
        assert error.status in (400, 422) and error.message.endswith(".")
        return
    assert 1 <= len(found.regions) <= 2
    for marks in found.regions:
        patches = [*marks.positive, *marks.negative]
        assert marks.positive and len(set(patches)) == len(patches)
        assert all(0 <= row < 3 and 0 <= column < 4 for row, column in patches)
        assert marks.places.keys() <= set(patches) and all(
            place == (0, 0) for place in marks.places.values()
        )
    assert 0 < found.threshold < 1
    assert found.chosen is None or 0 <= found.chosen < len(found.regions)


@given(
    st.sampled_from(["PNG", "JPEG", "WEBP"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    st.floats(0, 1),
)
def test_damaged_images_are_read_or_refused(image_format, changes, kept):
    data = bytearray(encoded(picture(0, (24, 32)), image_format))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    data = bytes(data[: max(int(kept * len(data)), 1)] if kept < 0.9 else data)
    try:
        pixels = decode_image(data, 2000)
    except RefusedError as error:
        assert error.status in (413, 415, 422) and error.message.endswith(".")
        return
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert pixels.size <= 3 * 2000


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_uploads_are_read_as_files_are(tmp_path, image_format):
    data = encoded(picture(1), image_format)
    (tmp_path / "photo").write_bytes(data)
    assert np.array_equal(decode_image(data, 10_800), read_image(tmp_path / "photo"))
    with pytest.raises(RefusedError, match="at most 0.010799"):
        decode_image(data, 10_799)


def test_transparency_is_laid_over_white():
    pixels = np.zeros((10, 10, 4), np.uint8)
    assert (decode_image(encoded(pixels), 100) == 255).all()


@pytest.mark.parametrize("sizes", [[100], [60, 40], [1] * 100, []])
def test_bodies_up_to_the_limit_are_read(sizes):
    async def read():
        bodies = Bodies(1000)
        async with bodies.read(chunks(sizes, []), 100) as body:
            assert len(body) == bodies.held == sum(sizes)
        assert len(body) == bodies.held == 0

    asyncio.run(read())


@pytest.mark.parametrize("sizes", [[101], [60, 41], [1] * 101, [50] * 1000])
def test_larger_bodies_are_refused_and_endless_ones_not_read_to_their_end(sizes):
    taken = []

    async def read():
        async with bodies.read(chunks(sizes, taken), 100):
            pass

    bodies = Bodies(1000)
    with pytest.raises(RefusedError, match="too large"):
        asyncio.run(read())
    assert sum(taken) <= 400 and bodies.held == 0


def test_all_bodies_together_have_a_limit():
    bodies = Bodies(250)

    async def read():
        async with bodies.read(chunks([50, 50], []), 100):
            async with bodies.read(chunks([50, 50], []), 100) as second:
                with pytest.raises(RefusedError, match="busy") as caught:
                    async with bodies.read(chunks([50, 50], []), 100):
                        pass
                assert caught.value.status == 503 and bodies.held == 200 and len(second) == 100
            async with bodies.read(chunks([50, 50], []), 100) as again:
                assert len(again) == 100

    asyncio.run(read())
    assert bodies.held == 0


def test_slow_and_broken_bodies_are_let_go():
    async def endless():
        yield bytes(90)
        await asyncio.sleep(60)

    async def broken():
        yield bytes(90)
        raise ConnectionError

    async def read(source):
        async with bodies.read(source, 100):
            pass

    bodies = Bodies(1000, seconds=0.05)
    with pytest.raises(RefusedError, match="more than 0.05 seconds"):
        asyncio.run(read(endless()))
    with pytest.raises(ConnectionError):
        asyncio.run(read(broken()))
    assert bodies.held == 0


def test_scans_are_counted_before_any_is_decoded():
    size = (24, 32)
    assert decode_image(many_scans(MAX_SCANS, size), 768).shape == (24, 32, 3)
    with pytest.raises(RefusedError, match=f"{MAX_SCANS + 1} scans: at most {MAX_SCANS}"):
        decode_image(many_scans(MAX_SCANS + 1, size), 768)


async def chunks(sizes, read):
    for size in sizes:
        read.append(size)
        yield bytes(size)
