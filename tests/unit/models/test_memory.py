"""What threads have freed goes back to the system."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from accord.models import memory
from accord.models.memory import give_back

STATUS = Path("/proc/self/statm")


def resident_mb() -> float:
    return int(STATUS.read_text().split()[1]) * 4096 / 1e6


@pytest.mark.skipif(not STATUS.exists() or memory._trim() is None, reason="needs Linux with glibc")
def test_what_a_thread_freed_is_no_longer_resident() -> None:
    def fill() -> bytearray:
        kept = []
        for _ in range(3000):  # small enough not to be mapped and unmapped one by one
            kept.append(bytearray(60_000))
            kept.append(bytearray(100))  # and these, kept, hold the heap open
        return kept[-1] + b"".join(bytes(x) for x in kept[1::2])

    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(fill).result()
        before = resident_mb()
        give_back()
        assert resident_mb() < before - 50, (before, len(held))
