"""Images, sound and video for those who judge: only in a project that they were brought into.

What is sent is named by its bytes, may not be guessed anew (nosniff, in the gate) and may do nothing, even
where somebody opens its address by itself (CSP sandbox).
"""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from accord.ledger import media
from accord.web.auth import Member, RefusedError, needs, not_found, site_of
from accord.web.media_types import ENDINGS

router = APIRouter(include_in_schema=False)

RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})", re.ASCII)


@router.get("/projects/{project_id}/media/{media_id}")
def medium(request: Request, who: Annotated[Member, Depends(needs("judge"))], media_id: str) -> Response:
    """The bytes, or the part of them that a player asks for."""
    with site_of(request).ledger.reading() as connection:
        type_ = media.types_in(connection, who.project.id, [media_id]).get(media_id)
        if type_ is None:
            raise not_found("this medium")
        size = media.size_of(connection, media_id)
        start, end = part_of(request.headers.get("range", ""), size) or (0, size)
        content = media.read_part(connection, media_id, start, end - start)
    part = (start, end) != (0, size)
    headers = {
        "Content-Disposition": f'inline; filename="{media_id[:12]}.{ENDINGS[type_]}"',
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "private, max-age=600",
        "Accept-Ranges": "bytes",
    }
    if part:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return Response(content, 206 if part else 200, headers, media_type=type_)


def part_of(asked: str, size: int) -> tuple[int, int] | None:
    """Start and end of the range that was asked for (RFC 9110); None for all. Raises RefusedError (416).

    More than one range, and what is no range of bytes, get all.
    """
    found = RANGE.fullmatch(asked.replace(" ", ""))
    if found is None or found[0] == "bytes=-":
        return None
    first, last = found[1], found[2]
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= size or start >= end:
        raise RefusedError(416, "invalid", f"the medium has {size} bytes, which does not hold {asked[:60]!r}")
    return start, end
