"""What threads have freed is there for other threads, and for the system."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from accord.models import memory
from accord.models.memory import give_back

STATUS = Path("/proc/self/statm")
needs_glibc = pytest.mark.skipif(
    not STATUS.exists() or memory._function("malloc_trim") is None, reason="needs Linux with glibc"
)


def resident_mb() -> float:
    return int(STATUS.read_text().split()[1]) * 4096 / 1e6


@needs_glibc
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


TWO_THREADS = """
import sys
from threading import Barrier, Thread
from accord.models.memory import share

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

def work(turn):
    for now in range(2):
        if now == turn:
            kept = [(bytearray(60_000), bytearray(100)) for _ in range(3000)]
            small.append([tiny for _, tiny in kept])  # they hold the heap open
            del kept
        both.wait()

if sys.argv[1] == "shared":
    share()
small, both, before = [], Barrier(2), resident_mb()
threads = [Thread(target=work, args=(turn,)) for turn in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(resident_mb() - before)
"""


@needs_glibc
def test_a_thread_uses_what_another_has_freed() -> None:
    def grown_mb(how: str, **environment: str) -> float:
        command = [sys.executable, "-c", TWO_THREADS, how]
        ours = {k: v for k, v in os.environ.items() if k != "MALLOC_ARENA_MAX"} | environment
        return float(subprocess.run(command, env=ours, check=True, capture_output=True, text=True).stdout)

    assert grown_mb("shared") < 0.7 * grown_mb("apart")
    assert grown_mb("shared", MALLOC_ARENA_MAX="4") > 0.8 * grown_mb("apart")  # who set it has decided
