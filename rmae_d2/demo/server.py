"""The page's server: Starlette routes around one model.

    GET  /                                   the page
    GET  /api/info                           the model, limits, examples
    GET  /api/examples/N[/thumbnail]         an example's file
    POST /api/images?mask_ratio=0.75         a file's bytes -> its key, size, grid and hidden patches
    POST /api/images/KEY/predict             marks (requests.py) -> doubts and probabilities
    POST /api/images/KEY/{mask.png,labels.png,regions.json}    marks -> a file at the image's size

Every refusal is ``{"error": text for the user, "code": ...}``.
"""

import asyncio
import gzip
import json
import mimetypes
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..inference.region_prompt import RegionPrediction, RegionPromptPredictor
from . import sessions
from .decoder import Decoder
from .examples import Example
from .requests import BUSY, MAX_BYTES, Bodies, Limits, Query, RefusedError, parse_query
from .sessions import OpenImage, OpenImages

HEADERS = {
    # Nothing from other origins, no inline scripts or styles; pictures may also come from the page's memory.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # a newer version's page and scripts never mix with an older one's
}


class SameOriginOnly:
    """Adds the headers to every response and refuses requests from scripts and forms of other pages.

    Browsers send the page's origin with every POST, and no page can change it. Programs such as curl send
    none; they are served.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        foreign = scope["method"] not in ("GET", "HEAD") and _is_foreign(Headers(scope=scope))
        refusal = JSONResponse({"error": "This request comes from another web page."}, 403)
        try:
            await (refusal if foreign else self.app)(scope, receive, send_with_headers)
        except asyncio.CancelledError:  # the server is shutting down, which is not a request error
            if not begun:
                closed = JSONResponse({"error": "The server was closed.", "code": ""}, 503)
                await closed(scope, receive, send_with_headers)


def _is_foreign(headers: Headers) -> bool:
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    if origin is None:
        return False
    try:  # only the host: a proxy in front may have turned http into https
        return urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
    except ValueError:  # not a URL
        return True


PAGE = Path(__file__).parent / "page"
MASK_RATIOS = (0.0, 0.5, 0.75, 0.9)
_MOST_WAITING = 64
_MOST_OPENING = 3  # images between upload and model: 75 MB each as pixels

T = TypeVar("T")


class Demo:
    """The route handlers and their shared state.

    Args:
        predictor: its ``mask_ratio`` is the page's initial one.
    """

    def __init__(
        self, predictor: RegionPromptPredictor, examples: Sequence[Example], limits: Limits
    ) -> None:
        self.predictor = predictor
        self.images = OpenImages(limits.kept_images)
        self.examples = examples
        self.limits = limits
        self.mask_ratios = sorted({*MASK_RATIOS, predictor.mask_ratio})
        # One model, always the same thread: torch creates a thread team for every thread that calls it.
        self._model_thread = ThreadPoolExecutor(1, "model")
        self._file_threads = ThreadPoolExecutor(2, "files")
        self._decode_threads = ThreadPoolExecutor(2, "images")
        self._decoder = Decoder(limits.pixels)
        self._bodies = Bodies(limits.held_bytes)
        self._opening = asyncio.Semaphore(_MOST_OPENING)
        self._waiting = 0

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """End the threads with the server, dropping waiting work."""
        yield
        for threads in (self._model_thread, self._file_threads, self._decode_threads):
            threads.shutdown(wait=False, cancel_futures=True)
        self._decoder.close()

    async def info(self, _: Request) -> Response:
        return JSONResponse(
            {
                "model": sessions.describe_model(self.predictor),
                "uploadBytes": self.limits.upload_bytes,
                "pixels": self.limits.pixels,
                "regions": self.limits.regions,
                "maskRatios": self.mask_ratios,
                "maskRatio": self.predictor.mask_ratio,
                "examples": [{"name": e.name, "credit": e.credit} for e in self.examples],
            }
        )

    async def example(self, request: Request) -> Response:
        return Response(self._example(request).data, media_type="application/octet-stream")

    async def thumbnail(self, request: Request) -> Response:
        return Response(self._example(request).thumbnail, media_type="image/jpeg")

    async def open(self, request: Request) -> Response:
        ratio = self._mask_ratio(request.query_params.get("mask_ratio", "0"))
        encode = partial(self.predictor.embed, mask_ratio=ratio)
        upload = self._bodies.read(request.stream(), self.limits.upload_bytes)
        async with upload as body, self._opening:
            pixels = await self._run(self._decode_threads, self._decoder, body)
            image = self.images.add(await self._run(self._model_thread, encode, pixels))
        height, width = image.embedding.image_size
        content = {"key": image.key, "width": width, "height": height, "grid": image.embedding.grid}
        content["hidden"] = np.argwhere(image.embedding.hidden).tolist()
        return JSONResponse(content, 201)

    async def predict(self, request: Request) -> Response:
        image, query = await self._query(request)
        arguments = (self.predictor, image, query)
        prediction = await self._run(self._model_thread, sessions.display, *arguments)
        body = await self._run(self._file_threads, pack_prediction, prediction)
        headers = {"Content-Encoding": "gzip"}
        return Response(body, media_type="application/octet-stream", headers=headers)

    async def file(self, request: Request) -> Response:
        image, query = await self._query(request)
        name = request.scope["path"].rpartition("/")[2]  # request.url fails for some Host headers
        found = sessions.full_size(self.predictor, image, query)
        arguments = (found, image.embedding.image_size, query)
        body = await self._run(self._model_thread, sessions.FILES[name], *arguments)
        return Response(body, media_type=mimetypes.guess_type(name)[0])

    async def _query(self, request: Request) -> tuple[OpenImage, Query]:
        async with self._bodies.read(request.stream(), MAX_BYTES) as body:
            image = self.images.get(request.path_params["key"])
            return image, parse_query(body, image.embedding.grid, self.limits.regions)

    async def _run(self, threads: ThreadPoolExecutor, work: Callable[..., T], *given: Any) -> T:
        """Run work off the event loop, so that the server keeps answering others."""
        if self._waiting >= _MOST_WAITING:
            raise RefusedError(503, BUSY, "busy")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work, *given)
        finally:
            self._waiting -= 1

    def _mask_ratio(self, text: str) -> float:
        for ratio in self.mask_ratios:
            if text == f"{ratio:g}":
                return ratio
        known = ", ".join(f"{ratio:g}" for ratio in self.mask_ratios)
        raise RefusedError(422, f"mask_ratio must be one of {known}.")

    def _example(self, request: Request) -> Example:
        wanted = request.path_params["number"]
        for number, example in enumerate(self.examples):
            if wanted == str(number):
                return example
        raise RefusedError(404, "There is no such example.")


def pack_prediction(prediction: RegionPrediction) -> bytes:
    """Serialize what the page draws, compressed with gzip.

    Returns:
        a line of JSON, ``{"width", "height", "doubts": [K]}``; then K planes of height * width bytes,
        probability * 256 rounded down, at most 255: exact for thresholds that are multiples of 1/256.
    """
    _, height, width = prediction.masks.shape
    head = {"width": width, "height": height, "doubts": prediction.doubts}
    planes = np.minimum(prediction.probabilities * 256, 255).astype(np.uint8)
    return gzip.compress(json.dumps(head).encode() + b"\n" + planes.tobytes(), compresslevel=1)


def build_app(
    predictor: RegionPromptPredictor,
    examples: Sequence[Example] = (),
    limits: Limits | None = None,
    allowed_hosts: Sequence[str] = ("localhost", "127.0.0.1", "[::1]"),
) -> SameOriginOnly:
    """Build the demo as an ASGI application, for any server.

    Args:
        allowed_hosts: host names under which browsers may reach it; ``["*"]`` for any. Listing only your own
            names keeps other people's pages from reaching a local server through a name that they point here.
    """
    demo = Demo(predictor, examples, limits or Limits())
    mimetypes.add_type("text/javascript", ".js")  # not set on every Windows; browsers insist on it
    key = "/api/images/{key}"
    routes = [
        Route("/api/info", demo.info),
        Route("/api/examples/{number}", demo.example),
        Route("/api/examples/{number}/thumbnail", demo.thumbnail),
        Route("/api/images", demo.open, methods=["POST"]),
        Route(f"{key}/predict", demo.predict, methods=["POST"]),
        *(Route(f"{key}/{name}", demo.file, methods=["POST"]) for name in sessions.FILES),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    own_names: Any = {"allowed_hosts": list(allowed_hosts), "www_redirect": False}
    app = Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, **own_names)],
        exception_handlers={
            RefusedError: _refused,
            ClientDisconnect: _gone,
            HTTPException: _failed,
            Exception: _failed,
        },
        lifespan=demo.lifespan,
    )
    app.state.demo = demo
    return SameOriginOnly(app)  # wraps Starlette's own error responses, too


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return JSONResponse({"error": error.message, "code": error.code}, error.status)


async def _gone(_: Request, error: Exception) -> Response:
    """The client has disconnected: the tab was closed, so nobody reads this response."""
    return Response(status_code=400)


async def _failed(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return JSONResponse({"error": f"{error.detail}.", "code": ""}, error.status_code)
    text = "The server made a mistake; its terminal says which. Try again, or open another image."
    return JSONResponse({"error": text, "code": "failed"}, 500)
