"""Micro-batches side by side in one process.

On a CPU two threads that compute a micro-batch each are faster than one after the other with both cores: the
small operations between matrix products gain nothing from a second core. Every lane adds up its own results
and the lanes are added up in order, so that numbers depend on how many there are, never on who was first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

from accord.training.distributed import splits

T = TypeVar("T")
R = TypeVar("R")
MOST = 2  # measured up to here; every lane holds a micro-batch and its gradients


def lanes() -> int:
    """How many micro-batches are computed at once. One on a GPU, where this thread may use one core, or where
    the layers are gathered from other processes."""
    if torch.get_default_device().type != "cpu" or splits():
        return 1
    return min(MOST, torch.get_num_threads())


def in_lanes(work: Callable[[Sequence[T]], R], items: Sequence[T]) -> list[R]:
    """`work` on every n-th of the items, once in each of n lanes; the results by lane."""
    count = min(lanes(), len(items))
    if count < 2:
        return [work(items)]
    cores, grad = torch.get_num_threads() // count, torch.is_grad_enabled()

    def lane(own: Sequence[T]) -> R:
        torch.set_num_threads(cores)  # of this thread
        with torch.set_grad_enabled(grad):
            return work(own)

    running = [_pool().submit(lane, items[start::count]) for start in range(count)]
    return [future.result() for future in running]


def each(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`work(item)` for each item, in lanes; the results in the items' order."""
    found: list[R] = []
    parts = in_lanes(lambda own: [work(item) for item in own], items)
    for place in range(len(items)):
        found.append(parts[place % len(parts)][place // len(parts)])
    return found


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MOST, thread_name_prefix="accord-lane")
