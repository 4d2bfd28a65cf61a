"""What all requests and replies of the API share."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """Of a request: no unknown fields, and no guessing of types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Problem(BaseModel):
    code: str
    message: str


class ErrorReply(BaseModel):
    error: Problem


MEANINGS = {
    400: "not a request that can be read",
    401: "signed out, or a token that does not work",
    403: "not allowed to you or to this token, or a page that is out of date",
    404: "not there, or not yours",
    409: "not possible as things stand now; the message says what to do",
    413: "too large",
    415: "not JSON",
    422: "not what is asked for; the message says where",
    429: "too many; wait as long as the header Retry-After says",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": meaning} for status, meaning in MEANINGS.items()
}
