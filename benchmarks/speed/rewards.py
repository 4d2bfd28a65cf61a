"""A reward that costs nothing, with the signature that both sides call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def variety(completions: Sequence[Any], **_: Any) -> list[float]:
    """Share of different words; a completion is a text, or a conversation of one message."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [len(set(text.split())) / max(1, len(text.split())) for text in texts]
