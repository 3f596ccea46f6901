import concurrent.futures
import contextlib
import gc
import io
import json
import socket
import threading
import time
import tracemalloc

import httpx
import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from rmae_d2.demo import Limits
from rmae_d2.demo.protocol import TimedProtocol
from rmae_d2.demo.server import build_app
from tests.demo.files import encoded, many_scans, picture, png_header
from tests.helpers import HUNG, wait_for

MARKS = {"positive": [[2, 2], [2, 3]], "negative": [[6, 6], [0, 7]]}
OTHER = {"positive": [[5, 1]], "negative": [[1, 5], [7, 7]]}


@pytest.fixture(scope="module")
def client(command):
    with httpx.Client(base_url=command.url, timeout=HUNG) as client:
        yield client


@pytest.fixture(scope="module")
def small(serve, predictor):
    """A server with small limits, in this process, and the app."""
    limits = Limits(upload_bytes=20_000, pixels=20_000, regions=2, kept_images=2)
    app = build_app(predictor, limits=limits)
    with httpx.Client(base_url=serve(app), timeout=HUNG) as client:
        client.demo = app.app.state.demo
        yield client


def open_image(client, pixels, mask_ratio="0"):
    answer = client.post(f"/api/images?mask_ratio={mask_ratio}", content=encoded(pixels))
    assert answer.status_code == 201, answer.text
    return answer.json()


def predicted(predictor, pixels, *regions, mask_ratio=0.0, threshold=0.5):
    embedding = predictor.embed(pixels, mask_ratio=mask_ratio)
    prompts = [
        predictor.prompt(
            patches=region["positive"], negative_patches=region["negative"], embedding=embedding
        )
        for region in regions
    ]
    return predictor.predict(prompts, threshold, embedding)


def unpack(answer):
    assert answer.status_code == 200, answer.text
    head, _, planes = answer.content.partition(b"\n")
    head = json.loads(head)
    shape = (len(head["doubts"]), head["height"], head["width"])
    return head, np.frombuffer(planes, np.uint8).reshape(shape)


def as_array(answer):
    assert answer.status_code == 200, answer.text
    with Image.open(io.BytesIO(answer.content)) as image:
        return np.array(image)


@pytest.mark.parametrize("ratio", ["0", "0.75"])
def test_probabilities_are_the_predictors(client, predictor, ratio):
    pixels = picture(1)
    image = open_image(client, pixels, ratio)
    assert (image["height"], image["width"], image["grid"]) == (90, 120, [8, 8])
    assert len(image["hidden"]) == round(64 * float(ratio))
    query = {"regions": [MARKS, OTHER], "threshold": 0.5}
    head, planes = unpack(client.post(f"/api/images/{image['key']}/predict", json=query))
    expected = predicted(predictor, pixels, MARKS, OTHER, mask_ratio=float(ratio))
    assert np.array_equal(planes, np.minimum(expected.probabilities * 256, 255).astype(np.uint8))
    assert head["doubts"] == expected.doubts
    assert expected.masks.any() and not expected.masks.all()


def test_a_box_keeps_the_mask(client, predictor):
    pixels = picture(3)
    key = open_image(client, pixels)["key"]
    region = {"positive": [[2, 2]], "negative": []}
    _, free = unpack(client.post(f"/api/images/{key}/predict", json={"regions": [region]}))
    region["box"] = [[2, 2], [2, 3]]
    _, kept = unpack(client.post(f"/api/images/{key}/predict", json={"regions": [region]}))
    embedding = predictor.embed(pixels)
    prompt = predictor.prompt(patches=[(2, 2)], embedding=embedding).kept_in(2, 2, 3, 4)
    expected = predictor.predict([prompt], 0.5, embedding).probabilities
    assert np.array_equal(kept, np.minimum(expected * 256, 255).astype(np.uint8))
    assert free[0, 60:].any() and not kept[0, 60:].any()
    region["positive"] = [[2, 2], [7, 7]]  # outside of the box
    _, lifted = unpack(client.post(f"/api/images/{key}/predict", json={"regions": [region]}))
    assert lifted[0, 60:].any()


def test_a_place_in_a_patch_is_a_point(client, predictor):
    pixels = picture(5, (80, 160))
    key = open_image(client, pixels)["key"]
    region = {"positive": [[2, 3, 0.75, 0.1]], "negative": [[5, 5], [6, 1, 0, 0.999]]}
    answer = client.post(f"/api/images/{key}/predict", json={"regions": [region]})
    embedding = predictor.embed(pixels)
    prompt = predictor.prompt(
        points=[(62, 27), (39, 60)], labels=[1, 0], negative_patches=[(5, 5)], embedding=embedding
    )
    assert prompt.seeds[27, 62] == 1 and prompt.seeds[60, 39] == 0
    assert (prompt.seeds >= 0).sum() == 2 + 10 * 20
    expected = predictor.predict([prompt], 0.5, embedding).probabilities
    assert np.array_equal(unpack(answer)[1], np.minimum(expected * 256, 255).astype(np.uint8))


def test_files_hold_the_predictors_masks(client, predictor):
    pixels = picture(2, (75, 100))
    key = open_image(client, pixels)["key"]
    query = {"regions": [MARKS, OTHER], "threshold": 0.4, "name": "../ä.png"}
    expected = predicted(predictor, pixels, MARKS, OTHER, threshold=0.4)

    for k in (0, 1):
        mask = as_array(client.post(f"/api/images/{key}/mask.png", json={**query, "chosen": k}))
        assert np.array_equal(mask, expected.masks[k] * 255)

    labels = as_array(client.post(f"/api/images/{key}/labels.png", json=query))
    assert np.array_equal(labels > 0, expected.masks.any(axis=0))
    higher = 1 + expected.probabilities.argmax(axis=0)
    both = expected.masks.all(axis=0) & (expected.probabilities[0] != expected.probabilities[1])
    assert np.array_equal(labels[both], higher[both])

    content = client.post(f"/api/images/{key}/regions.json", json=query).json()
    assert content["images"] == [{"id": 1, "file_name": "../ä.png", "height": 75, "width": 100}]
    assert len(content["annotations"]) == 2
    for annotation, mask, score in zip(
        content["annotations"], expected.masks, expected.scores, strict=True
    ):
        assert np.array_equal(mask_util.decode(annotation["segmentation"]), mask)
        assert annotation["area"] == mask.sum()
        assert annotation["score"] == pytest.approx(score, abs=1e-4)


def test_large_images_are_drawn_reduced_and_written_whole(client):
    image = open_image(client, picture(4, (40, 1000)))
    query = {"regions": [MARKS], "chosen": 0}
    head, planes = unpack(client.post(f"/api/images/{image['key']}/predict", json=query))
    assert (head["width"], head["height"]) == (768, 31)
    mask = as_array(client.post(f"/api/images/{image['key']}/mask.png", json=query))
    assert mask.shape == (40, 1000)


def test_two_users_at_once_get_their_own_masks(client, predictor):
    images = {seed: picture(seed) for seed in (6, 7)}
    marks = {6: MARKS, 7: OTHER}
    keys = {seed: open_image(client, pixels)["key"] for seed, pixels in images.items()}
    expected = {
        seed: predicted(predictor, images[seed], marks[seed]).masks[0] * 255 for seed in keys
    }
    assert not np.array_equal(expected[6], expected[7])

    def ask(seed):
        query = {"regions": [marks[seed]], "chosen": 0}
        return seed, as_array(client.post(f"/api/images/{keys[seed]}/mask.png", json=query))

    with concurrent.futures.ThreadPoolExecutor(4) as users:
        for seed, mask in users.map(ask, [6, 7] * 10):
            assert np.array_equal(mask, expected[seed])


def test_every_answer_has_the_headers(client):
    answers = [
        client.get("/"),
        client.get("/app.js"),
        client.get("/nothing"),
        client.get("/../server.py"),
        client.get("/api/info"),
        client.post("/api/images", content=b""),
        client.post("/api/images/x/predict", headers={"Origin": "http://evil.example"}),
        client.get("/", headers={"Host": "evil.example"}),
    ]
    assert [a.status_code for a in answers] == [200, 200, 404, 404, 200, 415, 403, 400]
    for answer in answers:
        assert answer.headers["content-security-policy"].startswith("default-src 'self'; img-src")
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not any(name.startswith("access-control") for name in answer.headers)
    assert answers[1].headers["content-type"].startswith("text/javascript")


def test_only_its_own_page_may_write(client, command):
    image = encoded(picture())
    origins = {
        command.url: 201,
        "null": 403,
        "http://[::1": 403,
        "http://[": 403,
        "//": 403,
        "9" * 5000: 403,
        "http://evil.example": 403,
        command.url.replace("127.0.0.1", "localhost"): 403,
    }
    for origin, status in origins.items():
        answer = client.post("/api/images", content=image, headers={"Origin": origin})
        assert answer.status_code == status, origin
    for site, status in {"same-origin": 201, "cross-site": 403, "same-site": 403}.items():
        answer = client.post("/api/images", content=image, headers={"Sec-Fetch-Site": site})
        assert answer.status_code == status, site


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_own_names_are_served(client, host):
    assert client.get("/", headers={"Host": f"{host}:80"}).status_code == 200


@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (b"just text", 415, "not an image"),
        (b"", 415, "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not an image"),
        (encoded(picture(), "GIF"), 415, "not an image"),
        (png_header(20_000, 10_000), 413, "megapixels: at most 0.02"),
        (png_header(10_000, 10_000), 413, "10000 × 10000 = 100 megapixels"),
        (png_header(2_000_000_000, 2_000_000_000), 413, "megapixels"),
        (png_header(200, 101), 413, "megapixels"),
        (png_header(3, 100), 422, "at least 8"),
        (encoded(picture(), "JPEG")[:-800], 422, "damaged or cut short"),
        (encoded(picture(), "WEBP")[:-100], 422, "damaged or cut short"),
        (many_scans(500), 422, "500 scans: at most 100"),
        (bytes(20_001), 413, "at most 0.02 MB"),
        (bytes(200_000), 413, "at most 0.02 MB"),
    ],
)
def test_uploads_that_are_refused(small, data, status, text):
    def chunks():  # of unknown length: no header tells the server
        for start in range(0, len(data), 5000):
            yield data[start : start + 5000]

    for content in (data, chunks()):
        try:
            answer = small.post("/api/images", content=content)
        except (httpx.WriteError, httpx.ReadError):
            assert len(data) > 3 * 20_000  # the server hung up on a client that went on and on
            continue
        assert answer.status_code == status
        assert text in answer.json()["error"]


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        (b"{", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b"[]", 400, "the request must be a JSON object"),
        ({}, 422, "regions must be a list of 1 to 2"),
        ({"regions": [MARKS] * 3}, 422, "regions must be a list of 1 to 2"),
        ({"regions": [{"positive": [], "negative": [[0, 0]]}]}, 422, "at least one patch"),
        ({"regions": [{"positive": [[8, 0]]}]}, 422, "[8, 0]"),
        ({"regions": [{"positive": [[0, -1]]}]}, 422, "[0, -1]"),
        ({"regions": [{"positive": [[0.5, 1]]}]}, 422, "[0.5, 1]"),
        ({"regions": [{"positive": [[True, 1]]}]}, 422, "[true, 1]"),
        ({"regions": [{"positive": [[1, 1, 0.5]]}]}, 422, "[1, 1, 0.5]"),
        ({"regions": [{"positive": [[8, 1, 0.5, 0.5]]}]}, 422, "[8, 1]"),
        ({"regions": [{"positive": [[1, 1, 1, 0.5]]}]}, 422, "from 0 to less than 1"),
        ({"regions": [{"positive": [[1, 1, 0.5, False]]}]}, 422, "from 0 to less than 1"),
        ({"regions": [{"positive": [[1, 1, 0, 0], [1, 1]]}]}, 422, "twice"),
        ({"regions": [{"positive": [[1, 1], [1, 1]]}]}, 422, "twice"),
        ({"regions": [{"positive": [[1, 1]], "negative": [[1, 1]]}]}, 422, "both"),
        ({"regions": [{"positive": [[0, 0]] * 65}]}, 422, "at most 64"),
        ({"regions": [{**MARKS, "box": [[1, 1]]}]}, 422, "box must be two patches"),
        ({"regions": [{**MARKS, "box": [[1, 1], [0, 3]]}]}, 422, "box must be two patches"),
        ({"regions": [{**MARKS, "box": [[1, 1], [8, 3]]}]}, 422, "[8, 3]"),
        ({"regions": [{**MARKS, "box": 3}]}, 422, "region 1, box must be a list"),
        ({"regions": [MARKS], "threshold": 1}, 422, "threshold"),
        ({"regions": [MARKS], "threshold": "0.5"}, 422, "threshold"),
        (b'{"regions": [{"positive": [[0, 0]]}], "threshold": NaN}', 422, "threshold"),
        *(
            (b'{"regions": [{"positive": [[0, 0]]}], "threshold": %s}' % number, status, says)
            for number, status, says in (
                (b"9" * 400, 422, "threshold"),
                (b"-" + b"9" * 400, 422, "threshold"),
                (b"9" * 400 + b".5", 422, "threshold"),
                (b"1e999999", 422, "threshold"),
                (b"9" * 5000, 400, "not JSON"),
            )
        ),
        ({"regions": [{"positive": [[10**400, 0]]}]}, 422, "a patch is [row, column]"),
        ({"regions": [MARKS], "chosen": 10**400}, 422, "chosen"),
        (b'{"regions": 1, "\\ud800": 2}', 422, "unknown field"),
        ({"regions": [MARKS], "chosen": 1}, 422, "chosen"),
        ({"regions": [MARKS], "name": "x" * 201}, 422, "name"),
        ({"regions": [MARKS], "other": 1}, 422, "other"),
        (b"0" * 2_000_001, 413, "too large"),
    ],
)
def test_queries_that_are_refused(small, query, status, text):
    key = open_image(small, picture())["key"]
    content = query if isinstance(query, bytes) else json.dumps(query).encode()
    answer = small.post(f"/api/images/{key}/predict", content=content)
    assert (answer.status_code, text in answer.json()["error"]) == (status, True), answer.text


def test_other_mask_ratios_are_refused(small):
    for ratio in ("1", "0.3", "x", "nan"):
        answer = small.post(f"/api/images?mask_ratio={ratio}", content=encoded(picture()))
        assert answer.status_code == 422
        assert answer.json()["error"] == "mask_ratio must be one of 0, 0.5, 0.75, 0.9."


def test_an_image_that_is_gone(small):
    keys = [open_image(small, picture(seed))["key"] for seed in range(3)]  # of which two are kept
    answers = [small.post(f"/api/images/{k}/predict", json={"regions": [MARKS]}) for k in keys]
    assert [answer.status_code for answer in answers] == [404, 200, 200]
    gone = "The server no longer has this image: open it again."
    assert answers[0].json() == {"error": gone, "code": "gone"}
    assert len({*keys}) == 3 and min(map(len, keys)) >= 32


def test_it_answers_while_the_model_works(small):
    key = open_image(small, picture())["key"]
    answers = []

    def predict():
        answers.append(small.post(f"/api/images/{key}/predict", json={"regions": [MARKS]}))

    user = threading.Thread(target=predict)
    done = threading.Event()
    small.demo._model_thread.submit(done.wait)  # as a long prediction of somebody else
    user.start()
    assert small.get("/api/info").status_code == 200
    assert small.get("/").status_code == 200
    assert not answers
    done.set()
    user.join(timeout=HUNG)
    assert answers[0].status_code == 200


@pytest.mark.parametrize("number", ["9" * 5000, "-1", "01", "1e3", "6", "%D9%A3", "%00", "0x0"])
def test_examples_that_are_not_there(client, number):
    for ending in ("", "/thumbnail"):
        answer = client.get(f"/api/examples/{number}{ending}")
        assert answer.status_code == 404
        assert answer.json()["error"] == "There is no such example."


def test_odd_host_names_are_no_error_of_the_server(serve, predictor):
    """Where others reach the server any name is taken, and some are not part of an address."""
    with httpx.Client(base_url=serve(build_app(predictor, allowed_hosts=["*"]))) as client:
        key = open_image(client, picture())["key"]
        for host in ("[::1", "[", "a b", "x" * 3000):
            query = {"regions": [MARKS], "chosen": 0}
            answer = client.post(f"/api/images/{key}/mask.png", json=query, headers={"Host": host})
            assert answer.status_code == 200, host
            assert client.get("/nothing", headers={"Host": host}).status_code == 404


def connect(client):
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=HUNG)


def begin_upload(client, size, length):
    """A connection that has sent so much of a body."""
    connection = connect(client)
    head = "POST /api/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
    connection.sendall(f"{head}{length}\r\n\r\n".encode() + bytes(size))
    return connection


def test_many_unfinished_uploads_leave_room_for_none_and_then_for_all(small, monkeypatch):
    bodies = small.demo._bodies
    monkeypatch.setattr(bodies, "_most", 57_000)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(begin_upload(small, 19_000, 20_000))
        wait_for(lambda: bodies.held == 3 * 19_000)
        answer = small.post("/api/images", content=encoded(picture()))
        assert (answer.status_code, answer.json()["code"]) == (503, "busy")
        assert bodies.held == 3 * 19_000
        assert small.get("/api/info").status_code == 200
    wait_for(lambda: bodies.held == 0)
    assert open_image(small, picture())


def test_broken_off_and_refused_uploads_leave_nothing_in_memory(serve, predictor, caplog):
    """Not even until the next collection of cycles."""
    app = build_app(predictor, limits=Limits(upload_bytes=4_000_000))
    with httpx.Client(base_url=serve(app), timeout=HUNG) as client:
        bodies = app.app.state.demo._bodies
        junk = bytes(3_900_000)  # once: the client itself keeps what it sent
        client.post("/api/images", content=b"text")
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(5):
                with begin_upload(client, 3_900_000, 4_000_000):
                    wait_for(lambda: bodies.held == 3_900_000)
                wait_for(lambda: bodies.held == 0)
                assert client.post("/api/images", content=junk).status_code == 415
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()
    assert held < 2_000_000
    assert not caplog.records  # a closed tab is not an error


def test_headers_have_a_time_limit(small, monkeypatch):
    monkeypatch.setattr(TimedProtocol, "header_seconds", 0.3)
    request = b"GET /api/info HTTP/1.1\r\nHost: localhost\r\n"
    with connect(small) as silent, connect(small) as slow, connect(small) as second:
        second.sendall(request + b"\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += second.recv(100_000)
        second.sendall(request)
        slow.sendall(request)
        with contextlib.suppress(OSError):  # when it is closed
            for _ in range(20 * HUNG):
                slow.sendall(b"X: y\r\n")
                time.sleep(0.05)
        for connection in (silent, slow, second):
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(100_000) == b""
    # Not those whose request is whole, however long it takes.
    done = threading.Event()
    small.demo._model_thread.submit(done.wait)
    threading.Timer(1.0, done.set).start()
    assert open_image(small, picture())


def test_an_error_of_the_server_is_told_as_one(serve, predictor):
    app = build_app(predictor)
    with httpx.Client(base_url=serve(app)) as client:
        app.app.state.demo.predictor = None  # a mistake in the code
        answer = client.post("/api/images", content=encoded(picture()))
    assert answer.status_code == 500
    assert answer.json()["code"] == "failed"
    assert answer.headers["x-content-type-options"] == "nosniff"
