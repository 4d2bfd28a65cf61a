"""Memory that is no longer used goes back to the system.

The C library keeps what is freed for the thread that freed it, and what one thread keeps another cannot use:
sampling in the main thread and training in lanes would each hold on to what the other needs.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def give_back() -> None:
    """Return what all threads have freed, where the C library can (glibc); elsewhere nothing happens."""
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Any:
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # no such library here
        return None
