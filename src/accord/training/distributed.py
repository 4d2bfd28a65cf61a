"""Several processes: `torchrun` starts them, and each does its share of every step's micro-batches.

All processes hold the whole model and read the same data, so all plan the same steps; what one has computed
is added up over all of them (sums, never means: see `engine`). Only the first, rank 0, writes and speaks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from accord.errors import AccordError, ConfigError

T = TypeVar("T")
R = TypeVar("R")
LOST = (
    "a process of this run ended without a word (killed, or out of memory?); "
    "start the same command again to go on from the last checkpoint"
)
OTHERS = ("DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")  # ways to split a model, as accelerate names them
FSDP_EXTRAS = ("FSDP_OFFLOAD_PARAMS", "FSDP_ACTIVATION_CHECKPOINTING")


class PeerLostError(AccordError):
    """A process of the run ended while others waited for it."""


class PeerFailedError(AccordError):
    """Another process failed first and says why: there is nothing to add."""


def world() -> tuple[int, int]:
    """(rank, number of processes)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def splits() -> bool:
    """Whether the launcher asked that layers be split over the processes (FSDP2; see `models.sharded`)."""
    return world()[1] > 1 and _said("ACCELERATE_USE_FSDP")


def _said(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true")


def leads() -> bool:
    """Whether this is the process that writes files."""
    return world()[0] == 0


@contextmanager
def group() -> Iterator[None]:
    """Join the processes that `torchrun` started (RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say which).

    Nothing happens in a single process, or within another group. An error in one process reaches the others
    as a PeerFailedError, so that one message is shown; which is the first is settled by a shared counter.
    Raises ConfigError where the launcher promised what is not done here.
    """
    _refuse_promises()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    store, rank, size = next(dist.rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield
        wait()
    except Exception as error:
        if not _first_to_fail(store):
            raise PeerFailedError("another process failed first; its message says why") from error
        if isinstance(error, dist.DistBackendError) or "by peer" in str(error):  # while layers were gathered
            raise PeerLostError(LOST) from error
        raise
    finally:
        dist.destroy_process_group()


def _refuse_promises() -> None:
    """`accelerate launch` only says so in the environment: all would run, and nothing be done about it."""
    asked = [what for what in OTHERS if _said(f"ACCELERATE_USE_{what}")]
    if _said("ACCELERATE_USE_FSDP"):
        asked += ["FSDP version 1"] if os.environ.get("FSDP_VERSION", "1") != "2" else []
        asked += [name for name in FSDP_EXTRAS if _said(name)]
    if not asked:
        return
    if os.environ.get("RANK", "0") != "0":
        raise PeerFailedError("the first process says why")
    raise ConfigError(
        f"{asked[0]} is asked for, and Accord does not do that. Where the model fits into one process, start "
        "them with torchrun, or with accelerate and configs/processes.yaml; where it does not, with "
        "configs/fsdp2.yaml, which splits the layers of a model that learns an adapter (lora)"
    )


def _first_to_fail(store: Any) -> bool:
    try:
        return int(store.add("accord/failed", 1)) == 1
    except RuntimeError:  # the store died with its process: better two messages than none
        return True


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's part: every n-th item, so that neighbours in size go to different processes."""
    rank, size = world()
    return items[rank::size]


def spare(items: Sequence[T]) -> Sequence[T]:
    """What a process computes for nothing where layers are split, so that all run them equally often."""
    size = world()[1]
    return items[:1] if splits() and len(share(items)) < -(-len(items) // size) else items[:0]


def spread(items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """`work(items)`, each process doing its share; every process gets all results, in order."""
    if world()[1] == 1:
        return list(work(items))
    own = share(items)
    parts = gather(list(work(own)) if own else [])
    found: list[Any] = [None] * len(items)
    for rank, part in enumerate(parts):
        found[rank :: len(parts)] = part
    return found


def gather(value: T) -> list[T]:
    """The value of every process, by rank."""
    size = world()[1]
    if size == 1:
        return [value]
    found: list[Any] = [None] * size
    with _peers():
        dist.all_gather_object(found, value)
    return found


def wait() -> None:
    """Go on when all processes have come here."""
    gather(None)


def add_gradients(parameters: Iterable[Tensor]) -> None:
    """Sum gradients over processes, in place. Sums, because losses are sums until the engine divides.

    A parameter that no process has a gradient for keeps None, as in a single process: AdamW skips it.
    """
    if world()[1] == 1:
        return
    ordered = list(parameters)
    seen = torch.tensor([float(p.grad is not None) for p in ordered])
    with _peers():
        dist.all_reduce(seen)
        pending = []
        for parameter, number in zip(ordered, seen.tolist(), strict=True):
            if not number:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            pending.append(dist.all_reduce(parameter.grad, async_op=True))
        for work in pending:
            work.wait()


@contextmanager
def _peers() -> Iterator[None]:
    """Turns the backend's many words for a broken connection into one."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(LOST) from error
