"""A resumable run: steps, metrics on disk, progress on the screen, checkpoints, Ctrl-C that saves."""

from __future__ import annotations

import json
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from accord.errors import AccordError, CheckpointError
from accord.training.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from accord.training.distributed import gather, leads

Metrics = dict[str, float]


class Resumable(Protocol):
    """All that a run must not lose: tensors, and JSON values in `extra`."""

    extra: dict[str, Any]

    def tensors(self) -> dict[str, Tensor]: ...
    def restore(self, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None: ...
    def finish(self) -> None: ...


class InterruptedRunError(AccordError):
    """Ctrl-C (or SIGTERM): the run was saved and can be resumed by the same command."""


@dataclass(frozen=True)
class Run:
    """Where a run lives and how long it is. `fingerprint` ties its checkpoints to settings and data."""

    folder: Path
    label: str
    steps: int
    checkpoint_every: int
    fingerprint: str
    headline: tuple[str, ...] = ("loss",)  # the metrics shown beside the bar


def run_steps(run: Run, state: Resumable, step: Callable[[int], Metrics], console: Console) -> list[Metrics]:
    """Call `step(0) ... step(run.steps - 1)`, going on after the newest checkpoint if there is one.

    Every step must be a function of its number and `state` alone: then a resumed run is bit-identical to
    one that was never stopped. Returns all metrics, also those before the resume.

    Of several processes the first writes; another number of them may go on from the checkpoint. Raises
    CheckpointError when they do not see the same settings, data and checkpoints, and InterruptedRunError
    after Ctrl-C, once the state is on disk; a second Ctrl-C stops at once.
    """
    folder, log = run.folder / "checkpoints", run.folder / "metrics.jsonl"
    checkpoint = load_checkpoint(folder, run.fingerprint)
    start = 0
    if checkpoint is not None:
        state.restore(checkpoint.tensors, checkpoint.extra)
        start = checkpoint.step
    rows = _read_metrics(log, start)
    _agree(run, start)
    run.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(log, "".join(json.dumps(row) + "\n" for row in rows))
    if start:
        console.print(f"{run.label}: going on after step {start} of {run.steps}")

    def save(done: int) -> None:
        save_checkpoint(folder, done, state.tensors(), state.extra, run.fingerprint)

    with _progress(console) as progress, _catch_interrupt() as interrupted, _appending(log) as write:
        task = progress.add_task(run.label, total=run.steps, completed=start, note="")
        for number in range(start, run.steps):
            began = time.perf_counter()
            row = {"step": number + 1, **step(number), "seconds": time.perf_counter() - began}
            rows.append(row)
            write(json.dumps(row) + "\n")
            note = "  ".join(f"{k.rsplit('/', 1)[-1]} {row[k]:.3g}" for k in run.headline if k in row)
            progress.update(task, completed=number + 1, note=note)
            done = number + 1
            stop = any(gather(interrupted()))  # a signal reaches the processes between different steps
            if done % run.checkpoint_every == 0 or done == run.steps or stop:
                save(done)
            if stop and done < run.steps:
                raise InterruptedRunError(
                    f"{run.label}: stopped after step {done} of {run.steps} and saved; "
                    "run the same command again to go on"
                )
    state.finish()
    return rows


def _agree(run: Run, start: int) -> None:
    """All processes begin the same run at the same step; none begins before all have read the checkpoint."""
    if len(set(gather((run.fingerprint, start)))) > 1:
        raise CheckpointError(
            f"{run.folder}: the processes of this run see other settings, data or checkpoints; give all the "
            "same arguments, and an --out on a file system that they share"
        )


@contextmanager
def _appending(path: Path) -> Iterator[Callable[[str], None]]:
    """A function that adds text to a file at once; it does nothing in all processes but the first."""
    if not leads():
        yield lambda text: None
        return
    with path.open("a") as file:

        def write(text: str) -> None:
            file.write(text)
            file.flush()

        yield write


def _read_metrics(path: Path, steps: int) -> list[Metrics]:
    """The rows of the steps that the checkpoint covers; later ones belong to work that was lost."""
    if not path.exists() or not steps:
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break  # a line cut short by a kill
        if row["step"] <= steps:
            rows.append(row)
    return rows


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        console=console,
        transient=False,
    ) as progress:
        yield progress


@contextmanager
def counting(console: Console, label: str, total: int, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that reports (done, total) of something, with its rate."""
    began = time.perf_counter()
    with _progress(console) as progress:
        task = progress.add_task(label, total=total, note="")

        def report(done: int, of: int) -> None:
            rate = done / max(time.perf_counter() - began, 1e-9)
            progress.update(task, completed=done, total=of, note=f"{rate:.1f} {unit}/s")

        yield report


@contextmanager
def _catch_interrupt() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C or SIGTERM into a flag that the loop reads between steps."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: nothing to catch
        yield lambda: False
        return
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def peak_rss_gb() -> float:
    """Largest resident memory of this process so far, in GB (10^9 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / 1e9 if sys.platform == "darwin" else float(peak) * 1024 / 1e9


def peak_gpu_gb() -> float:
    """Most memory of the GPU that this process's tensors took so far, in GB (10^9 bytes); 0 without one."""
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0


def read_metrics(folder: Path) -> list[Mapping[str, float]]:
    """The metrics that `run_steps` logged in `folder`."""
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
