"""The gate before every route: known host, small body, same origin, CSRF token; and every reply's headers.

It stands outside the routes, so that no route can forget it. See OWASP's CSRF prevention cheat sheet for the
synchroniser token and the origin check, of which a request must pass both. A request with an API token needs
neither: browsers never send one by themselves, and where one is sent, cookies count for nothing.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

JSON_BYTES = 1 << 20
FORM_BYTES = 1 << 16
IMPORT_BYTES = 64 << 20
SAFE = ("GET", "HEAD", "OPTIONS")

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
    "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types accord"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # "no-referrer" would also make browsers send "Origin: null" with the forms of this very site.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


@dataclass(frozen=True)
class Address:
    """Under which names the app is reached. `secure`: behind HTTPS, so cookies are sent over nothing else."""

    hosts: frozenset[str]  # as in the Host header, with port
    secure: bool = False

    @property
    def scheme(self) -> str:
        return "https" if self.secure else "http"

    def cookie(self, name: str) -> str:
        """Browsers share cookies between the ports of a host, so without HTTPS the port is in the name."""
        if self.secure:
            return f"__Host-accord-{name}"
        port = next(iter(sorted(self.hosts)), "").rpartition(":")[2]
        return f"accord-{port if port.isdigit() else 'web'}-{name}"


def csrf_token(secret: str) -> str:
    """Made from a cookie that scripts cannot read, so only this app's pages know it."""
    return hmac.new(secret.encode(), b"csrf", hashlib.sha256).hexdigest()


def bearer(request: Request) -> str | None:
    """The API token that came with a request; None where cookies count."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    api = request.scope["path"].startswith("/api/")
    return token.strip() if api and scheme.lower() == "bearer" else None


def session_or_visit(request: Request, address: Address) -> str:
    """The secret that CSRF tokens are made from; empty before the first cookie."""
    cookies = request.cookies
    return cookies.get(address.cookie("session")) or cookies.get(address.cookie("visit")) or ""


Reply = Callable[[Request, int, str, str], Response]


class Gate:
    """ASGI middleware; see the module. `reply` makes the answer to what is not let in."""

    def __init__(self, app: ASGIApp, address: Address, reply: Reply) -> None:
        self._app, self._address, self._reply = app, address, reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._add_headers(MutableHeaders(scope=message))
            await send(message)

        try:
            await self._let_in(Request(scope, receive), send_with_headers)
        except Exception:
            if not started:
                said = "something went wrong in the server; its log says what"
                await self._refuse(Request(scope), send_with_headers, 500, "defect", said)
            raise

    def _add_headers(self, given: MutableHeaders) -> None:
        sandbox = given.get("content-security-policy", CSP)  # stricter, of what people uploaded
        for name, value in HEADERS.items():
            given[name] = value
        given["Content-Security-Policy"] = sandbox
        if "cache-control" not in given:
            given["Cache-Control"] = "no-store"
        if self._address.secure:
            given["Strict-Transport-Security"] = "max-age=31536000"

    async def _let_in(self, request: Request, send: Send) -> None:
        if request.headers.get("host", "").lower() not in self._address.hosts:
            said = "this address is not one of this server's names"
            await self._refuse(request, send, 400, "host", said)
        elif request.method in SAFE:
            await self._app(request.scope, request.receive, send)
        else:
            await self._changing(request, send)

    async def _changing(self, request: Request, send: Send) -> None:
        path = request.scope["path"]
        api, with_token = path.startswith("/api/"), bearer(request) is not None
        if not with_token and not self._same_origin(request.headers):
            await self._refuse(request, send, 403, "csrf", "the request came from another site")
            return
        streamed = api and path.endswith("/import")  # its handler counts what comes
        limit = IMPORT_BYTES if streamed else JSON_BYTES if api else FORM_BYTES
        fits = _announced(request.headers) <= limit
        body = None if not fits else b"" if streamed else await _body(request.receive, limit)
        if body is None:
            await self._refuse(request, send, 413, "too_large", f"more than {limit >> 10} KiB were sent")
            return
        token = request.headers.get("x-csrf-token", "") if api else _form_token(body)
        if not with_token and not hmac.compare_digest(token.encode(), self._expected(request).encode()):
            await self._refuse(request, send, 403, "csrf", "the page is out of date; load it again")
            return
        media = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if api and not streamed and media != "application/json":
            await self._refuse(request, send, 415, "invalid", "the API takes application/json")
            return
        receive = request.receive if streamed else _replay(body, request.receive)
        await self._app(request.scope, receive, send)

    def _same_origin(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None:  # browsers leave it out only in old versions, which send no Sec-Fetch-Site either
            return headers.get("sec-fetch-site") == "same-origin"
        return origin.lower() == f"{self._address.scheme}://{headers.get('host', '').lower()}"

    def _expected(self, request: Request) -> str:
        return csrf_token(session_or_visit(request, self._address) or "\0")  # the latter is nobody's

    async def _refuse(self, request: Request, send: Send, status: int, code: str, message: str) -> None:
        response = await run_in_threadpool(self._reply, request, status, code, message)
        await response(request.scope, request.receive, send)


def _announced(headers: Headers) -> int:
    """The length that a request says it has: too large where that is no number."""
    length = headers.get("content-length", "0")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 16 else 1 << 62


async def _body(receive: Receive, limit: int) -> bytes | None:
    """The whole body; None when it is longer than `limit`."""
    parts, length = [], 0
    while True:
        message = await receive()
        part = message.get("body", b"")
        parts.append(part)
        length += len(part)
        if length > limit:
            return None
        if message["type"] != "http.request" or not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def _form_token(body: bytes) -> str:
    try:
        return parse_qs(body.decode(), max_num_fields=20).get("csrf", [""])[0]
    except ValueError:
        return ""
