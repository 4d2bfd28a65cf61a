"""Memory that is no longer used is there for others: other threads, and the system.

The C library keeps what is freed for the thread that freed it, and what one thread keeps another cannot use:
sampling in the main thread and training in lanes would each hold on to what the other needs.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

ARENA_MAX = -8  # M_ARENA_MAX in glibc's malloc.h


def share() -> None:
    """Let threads that start from now on use one heap, where the C library can (glibc).

    Whoever set MALLOC_ARENA_MAX has decided otherwise.
    """
    if (set_option := _function("mallopt")) is not None and "MALLOC_ARENA_MAX" not in os.environ:
        set_option(ARENA_MAX, 1)


def give_back() -> None:
    """Return what all threads have freed to the system, where the C library can."""
    if (trim := _function("malloc_trim")) is not None:
        trim(0)


@cache
def _function(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):  # no such library here
        return None
