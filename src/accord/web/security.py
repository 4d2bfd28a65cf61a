"""The gate before every route: known host, small body, same origin, CSRF token; and every reply's headers.

It stands outside the routes, so that no route can forget it. See OWASP's CSRF prevention cheat sheet for the
synchroniser token and the origin check, of which a request must pass both.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from threading import Lock
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
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
    "Referrer-Policy": "no-referrer",
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


def read_cookies(headers: Headers) -> dict[str, str]:
    try:
        jar = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}


class Gate:
    """ASGI middleware; see the module."""

    def __init__(self, app: ASGIApp, address: Address) -> None:
        self._app, self._address = app, address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    given[name] = value
                if "cache-control" not in given:
                    given["Cache-Control"] = "no-store"
                if self._address.secure:
                    given["Strict-Transport-Security"] = "max-age=31536000"
            await send(message)

        if headers.get("host", "").lower() not in self._address.hosts:
            await _refuse(send_with_headers, 400, "host", "this address is not one of this server's names")
        elif scope["method"] in SAFE:
            await self._app(scope, receive, send_with_headers)
        else:
            await self._changing(scope, headers, receive, send_with_headers)

    async def _changing(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        path = scope["path"]
        api = path.startswith("/api/")
        if not self._same_origin(headers):
            await _refuse(send, 403, "csrf", "the request came from another site")
            return
        streamed = api and path.endswith("/import")
        limit = IMPORT_BYTES if streamed else JSON_BYTES if api else FORM_BYTES
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            await _refuse(send, 413, "too_large", f"the request is larger than {limit >> 10} KiB")
            return
        if streamed:  # its handler counts what comes
            token = headers.get("x-csrf-token", "")
        else:
            body = await _body(receive, limit)
            if body is None:
                await _refuse(send, 413, "too_large", f"the request is larger than {limit >> 10} KiB")
                return
            receive = _replay(body, receive)
            token = headers.get("x-csrf-token", "") if api else _form_token(body)
        if not hmac.compare_digest(token.encode(), self._expected(headers).encode()):
            await _refuse(send, 403, "csrf", "the page is out of date; load it again")
            return
        if api and not streamed and headers.get("content-type", "").split(";")[0] != "application/json":
            await _refuse(send, 415, "invalid", "the API takes application/json")
            return
        await self._app(scope, receive, send)

    def _same_origin(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None:  # browsers leave it out only in old versions, which send no Sec-Fetch-Site either
            return headers.get("sec-fetch-site") == "same-origin"
        return origin.lower() == f"{self._address.scheme}://{headers.get('host', '').lower()}"

    def _expected(self, headers: Headers) -> str:
        cookies = read_cookies(headers)
        for name in ("session", "visit"):
            if secret := cookies.get(self._address.cookie(name)):
                return csrf_token(secret)
        return csrf_token("\0")  # nobody's


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


async def _refuse(send: Send, status: int, code: str, message: str) -> None:
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Throttle:
    """At most `limit` events a key within `seconds`. In memory: a restart forgives."""

    limit: int
    seconds: float
    clock: Callable[[], float] = time.monotonic
    most_keys: int = 100_000
    _events: dict[str, deque[float]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def wait(self, key: str) -> float:
        """Seconds until this key may try again; 0 when it may now."""
        with self._lock:
            events = self._recent(key)
            return events[0] + self.seconds - self.clock() if len(events) >= self.limit else 0.0

    def note(self, key: str) -> None:
        with self._lock:
            if len(self._events) >= self.most_keys:
                for old in [k for k in self._events if not self._recent(k)]:
                    del self._events[old]
            if key in self._events or len(self._events) < self.most_keys:
                self._events.setdefault(key, deque(maxlen=self.limit)).append(self.clock())

    def forgive(self, key: str) -> None:
        with self._lock:
            self._events.pop(key, None)

    def take_back(self, key: str) -> None:
        """Undo one `note`."""
        with self._lock:
            if events := self._events.get(key):
                events.pop()

    def _recent(self, key: str) -> deque[float]:
        events = self._events.get(key, deque())
        while events and events[0] <= self.clock() - self.seconds:
            events.popleft()
        return events
