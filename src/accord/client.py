"""A small client of the annotation app's API.

    from accord.client import connect

    app = connect("https://feedback.example.org", token)
    for project in app.projects():
        print(project["name"], project["answered"], "of", project["wanted"])
    app.import_file(project["id"], "pairs.jsonl")

Make a token on the app's account page; what it may do is what you may do, narrowed to its scopes. Every
method returns what the API says, as dicts and lists; /api/v1/openapi.json describes them. It needs the
standard library alone.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from accord.errors import AccordError

API = "/api/v1"


class ApiError(AccordError):
    """What the app refused. `status` is HTTP's, `code` one of the API's; `retry_after` in seconds, or 0."""

    def __init__(self, status: int, code: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after


class _NoRedirects(HTTPRedirectHandler):
    """A token is sent to the server it was made for, and to no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@dataclass(frozen=True)
class Client:
    """Get one from `connect`. Every method raises ApiError for what is refused or when no app is there."""

    url: str
    token: str = field(repr=False)
    timeout: float = 60.0
    _opener: OpenerDirector = field(default_factory=lambda: build_opener(_NoRedirects()), repr=False)

    # Projects

    def projects(self) -> list[dict[str, Any]]:
        """The projects you are in: id, name, state, role, answered, wanted, mine."""
        return list(self._json("GET", "/projects")["projects"])

    def quality(self, project: str) -> dict[str, Any]:
        """The numbers of the quality page, each with its interval."""
        return self._json("GET", f"/projects/{quote(project)}/quality")

    def import_file(
        self,
        project: str,
        path: str | Path,
        *,
        reason: str = "import",
        gold: bool = False,
        as_ranking: bool = False,
    ) -> dict[str, Any]:
        """Questions from a file of preference rows: how many were added and known, and each bad line.

        With `gold`, which answers the rows call better is kept to grade raters by. With `as_ranking` all
        answers to a prompt become one question, which is answered by their order.
        """
        content = Path(path).read_bytes()
        asked = "ranking" if as_ranking else "pairs"
        query = urlencode({"reason": reason, "gold": str(gold).lower(), "as": asked})
        headers = {"Content-Type": "application/octet-stream", "X-File-Name": quote(Path(path).name)}
        reply = self._send("POST", f"/projects/{quote(project)}/import?{query}", content, headers)
        return dict(json.loads(reply))

    def export(self, project: str, format: str = "preferences.jsonl") -> bytes:
        """A file of the project's answers: preferences.jsonl, judgements.jsonl, judgements.csv, …"""
        return self._send("GET", f"/projects/{quote(project)}/export/{quote(format)}", None, {})

    # Judging

    def lease(self, project: str, want: int = 1) -> list[dict[str, Any]]:
        """The questions that you hold, and new ones up to `want`."""
        return list(self._json("POST", f"/projects/{quote(project)}/lease", {"want": want})["questions"])

    def judge(
        self,
        question: Mapping[str, Any],
        strength: int,
        *,
        seconds: float,
        key: str | None = None,
        **beside: Any,
    ) -> dict[str, Any]:
        """Answer a leased question: from 3 (the first is much better) over 0 to -3 (the second).

        `key` makes repeating the call harmless: give the same one when you try again after an error.
        `beside`: both_bad, flags, ratings, comment, edit, revises.
        """
        body = {"strength": strength, "seconds": seconds, "key": key or secrets.token_hex(16), **beside}
        return self._json("POST", f"/assignments/{quote(question['assignment'])}/judgement", body)

    def rank(
        self,
        question: Mapping[str, Any],
        ranks: Sequence[int],
        *,
        seconds: float,
        key: str | None = None,
        **beside: Any,
    ) -> dict[str, Any]:
        """Answer a leased question of kind "ranking": the place of each answer, in the order they are given.

        1 is the best, and equal numbers are ties. The rest is as in `judge`.
        """
        body = {"ranks": list(ranks), "seconds": seconds, "key": key or secrets.token_hex(16), **beside}
        return self._json("POST", f"/assignments/{quote(question['assignment'])}/judgement", body)

    def skip(self, question: Mapping[str, Any], reason: str = "other") -> dict[str, Any]:
        """Give a leased question back; its place goes to somebody else."""
        return self._json("POST", f"/assignments/{quote(question['assignment'])}/skip", {"reason": reason})

    # Sending

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        return dict(json.loads(self._send(method, path, content, {"Content-Type": "application/json"})))

    def _send(self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]) -> bytes:
        sent = {"Authorization": f"Bearer {self.token}", "Accept": "application/json", **headers}
        request = Request(f"{self.url}{API}{path}", content, sent, method=method)
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                return bytes(response.read())
        except HTTPError as error:
            raise _explained(error) from None
        except (URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            raise ApiError(0, "unreachable", f"{self.url}: {reason}; is the app running there?") from error


def _explained(error: HTTPError) -> ApiError:
    wait = error.headers.get("Retry-After") or "0"
    retry_after = float(wait) if wait.isdigit() else 0.0
    try:
        said = json.loads(error.read())["error"]
        return ApiError(error.code, str(said["code"]), str(said["message"]), retry_after)
    except (ValueError, LookupError, TypeError):
        return ApiError(
            error.code, "", f"{error.url}: HTTP {error.code}; is this Accord's address?", retry_after
        )


def connect(url: str, token: str, *, timeout: float = 60.0) -> Client:
    """A client of the app at `url`. Raises ApiError when nothing is there or the token does not work.

    A token over plain HTTP can be read on the way, so that is for this machine alone.
    """
    parts = urlsplit(url)
    here = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and here):
        raise ApiError(
            0, "insecure", f"{url}: the address must begin with https:// (http:// on this machine)"
        )
    if not token or not token.isascii() or not token.isprintable():
        raise ApiError(0, "signed_out", "the token is empty or garbled; make one on the account page")
    client = Client(url.rstrip("/"), token, timeout)
    client.projects()
    return client


__all__: Sequence[str] = ("ApiError", "Client", "connect")
