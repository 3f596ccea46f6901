"""Answers only to its own page: headers, and a check of where writing requests come from."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    # Nothing from elsewhere, no inline scripts or styles; pictures also from the page's own memory.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # a newer version's page and scripts never mix with an older one's
}


class SameOriginOnly:
    """Adds the headers to every answer and refuses what other pages' scripts and forms send.

    Browsers name the page's origin with every POST, and no page can change it. Programs such as curl send
    none; they are served.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        foreign = scope["method"] not in ("GET", "HEAD") and _is_foreign(Headers(scope=scope))
        refusal = JSONResponse({"error": "This request comes from another web page."}, 403)
        await (refusal if foreign else self.app)(scope, receive, send_with_headers)


def _is_foreign(headers: Headers) -> bool:
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    # Only the host: a proxy in front may well have turned http into https.
    return origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
