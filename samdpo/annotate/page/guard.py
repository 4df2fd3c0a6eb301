"""What every request passes before anything reads it, and the headers of every answer, also of a fault's."""

from __future__ import annotations

import ipaddress
import logging
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from samdpo.annotate.page.settings import PageSettings

log = logging.getLogger(__name__)

LARGEST_BODY = 8 * 1024  # bytes; a judgement has a few hundred
LARGEST_HEAD = 16 * 1024  # bytes of address and headers
MOST_HEADERS = 100
_READS = ("GET", "HEAD", "OPTIONS")
_POLICY = "; ".join((
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
    "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'",
))
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer: with that, browsers send a form's Origin as 'null', and it could not be checked.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """ASGI middleware: checks ``Host`` and ``Origin``, bounds heads and bodies, sets security headers.

    A page of another site can make a browser send requests here, under a name that it points at this machine (DNS
    rebinding) or as a form (CSRF). The first has a foreign ``Host``, the second a foreign ``Origin``.
    """

    def __init__(self, app: ASGIApp, settings: PageSettings) -> None:
        self._app = app
        self._names = settings.host_names
        self._public = urlsplit(settings.address or "").netloc.lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that may not pass, or hand it on."""
        if scope["type"] == "websocket":  # the page has none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _WithHeaders(send, static=scope["path"].startswith("/static/"))
        try:
            await self._pass(scope, receive, send)
        except Exception:
            if send.started:
                raise
            log.exception("A fault of the page at %s %s; nothing of this request is stored.", scope["method"],
                          ascii(scope["path"][:200]))
            answer = JSONResponse({"message": "The page has a fault; its terminal tells which."}, 500)
            await answer(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = _too_large(scope) or self._refusal(scope["method"], headers)
        if refusal is None and scope["method"] not in _READS:
            body = await _bounded_body(headers, receive)
            if body is None:
                refusal = JSONResponse({"message": f"A request has {LARGEST_BODY} bytes at most."}, 413)
            else:
                receive = _replay(body, receive)
        await (self._app if refusal is None else refusal)(scope, receive, send)

    def _refusal(self, method: str, headers: dict[str, str]) -> JSONResponse | None:
        host = headers.get("host", "").lower()
        if not self._knows(host):
            return JSONResponse({"message": "This page is not known by that name. See --address."}, 400)
        if method in _READS:
            return None
        origin = urlsplit(headers.get("origin", ""))
        if origin.scheme not in ("http", "https") or origin.netloc.lower() not in {host, self._public} - {""}:
            return JSONResponse({"message": "Only the page itself may send this."}, 403)
        return None

    def _knows(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, _ = parts.hostname or "", parts.port
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)  # rebinding needs a name; an address cannot be pointed elsewhere
        except ValueError:
            return False
        return True


class _WithHeaders:
    """Sends with the security headers; ``started`` is whether an answer has begun."""

    def __init__(self, send: Send, static: bool) -> None:
        # Patients' images are kept nowhere; scripts and styles may be, if the browser asks whether they have changed.
        headers = {**_HEADERS, "cache-control": "no-cache" if static else "no-store"}
        self._added = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._send = send
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            message = {**message, "headers": [*message.get("headers", []), *self._added]}
        await self._send(message)


def _too_large(scope: Scope) -> JSONResponse | None:
    """The server bounds only heads that come in pieces."""
    headers = scope["headers"]
    size = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    size += sum(len(name) + len(value) + len(": \r\n") for name, value in headers)
    if size > LARGEST_HEAD or len(headers) > MOST_HEADERS:
        return JSONResponse(
            {"message": f"Address and headers have {LARGEST_HEAD} bytes and {MOST_HEADERS} headers at most."}, 431
        )
    return None


async def _bounded_body(headers: dict[str, str], receive: Receive) -> bytes | None:
    """The whole body; None where it is, or says it is, too large, or where the browser has gone before its end."""
    said = headers.get("content-length", "0")
    if not (said.isascii() and said.isdecimal()) or len(said) > 9 or int(said) > LARGEST_BODY:
        return None
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > LARGEST_BODY:
            return None
    return body


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def receiving() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving
