"""The API describes itself, for programs and for those who write them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from accord.ledger.accounts import Account
from accord.web.auth import caller

router = APIRouter(prefix="/api/v1", include_in_schema=False)

DESCRIPTION = """Everything that the pages of the annotation app do.

Programs send an API token (made on the account page) as `Authorization: Bearer TOKEN`. What a token may do is
what its account may do, narrowed to its scopes: `read`, `judge`, `manage`. Your own account is managed with a
browser alone. Errors are `{"error": {"code": ..., "message": ...}}`."""


@router.get("/openapi.json")
def openapi(request: Request, account: Annotated[Account, Depends(caller("read"))]) -> dict[str, Any]:
    return describe(request.app.openapi())


def describe(made: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's description, with what it cannot know: that each request needs a token."""
    described = made | {"info": made["info"] | {"description": DESCRIPTION}}
    schemes = {"token": {"type": "http", "scheme": "bearer"}}
    described["components"] = made.get("components", {}) | {"securitySchemes": schemes}
    described["security"] = [{"token": []}]
    return described
