"""Ours and the peer's in turn, each measurement in a process of its own, and what both say together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from speed.limits import Machine
from speed.task import Measured, Task
from speed.works import TRL

HERE = Path(__file__).resolve().parents[1]
TIMEOUT = 3600
STAT = Path("/proc/stat")
QUIET = 0.2  # cores that may be busy with something else

Runner = Callable[[str, Task, str], Measured]


class MeasurementError(Exception):
    """A measurement that ended without a number."""


def run_process(side: str, task: Task, peer: str) -> Measured:
    """One measurement in a process of its own, which sees the peer's folder only if it is the peer's.

    Raises MeasurementError with the end of what the process said.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    paths = [str(HERE), str(HERE / ".peers" / peer)] if side == "peer" else [str(HERE)]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    command = [sys.executable, "-m", "speed.measure", side, task.to_json()]
    return Measured(**json.loads(run_command(command, environment, f"{side} {task.work}").splitlines()[-1]))


def run_command(command: Sequence[str], environment: Mapping[str, str], name: str) -> str:
    """What `command` printed. Raises MeasurementError under this name."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
    try:
        printed, said = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"{name} took more than {TIMEOUT} s") from None
    finally:
        process.terminate()  # if it runs still: not killed, so that torchrun ends its processes, too
    if process.returncode in (-9, 137):
        raise MeasurementError(f"{name} was killed, as happens when memory runs out")
    if process.returncode:
        raise MeasurementError(f"{name} failed:\n{said[-4000:]}")
    return printed.strip()


def compare(
    task: Task, peer: str, repeats: int, run: Runner = run_process, *, alone: bool = False
) -> dict[str, Any]:
    """Medians of both sides; the ratios say how many times as much the peer takes.

    `alone` leaves the peer out. A peer that fails is left out, too, and "peer_failed" says why. Raises
    MeasurementError when ours fails.
    """
    row: dict[str, Any] = {"busy_cores": warn_if_busy()}
    found: dict[str, list[Measured]] = {"ours": []} if alone else {"ours": [], "peer": []}
    for _ in range(repeats):
        for side in list(found):
            try:
                found[side].append(run(side, task, peer))
            except MeasurementError as error:
                if side == "ours":
                    raise
                print(f"  {error}", file=sys.stderr, flush=True)
                row["peer_failed"] = str(error).partition("\n")[0]
                del found[side]
            else:
                print(f"  {side}: {_show(found[side][-1])}", file=sys.stderr, flush=True)
    for side, measured in found.items():
        row |= _side(side, measured)
    if "peer" in found:
        row["peer"] = peer if task.work != "sampling" else "generate()"
        row["speed_ratio"] = round(row["peer_seconds"] / row["ours_seconds"], 2)
        row["memory_ratio"] = round(row["ours_gb"] / row["peer_gb"], 3) if row["peer_gb"] else None
    return row


def _side(side: str, measured: Sequence[Measured]) -> dict[str, Any]:
    seconds = [s for m in measured for s in m.seconds]
    return {
        f"{side}_seconds": round(median(seconds), 3),
        f"{side}_range": [round(min(seconds), 3), round(max(seconds), 3)],
        f"{side}_gb": round(median(m.peak_gb for m in measured), 3),
        f"{side}_tokens": measured[0].tokens,
        f"{side}_losses": measured[0].losses,
        "steps": len(seconds),
    }


def _show(m: Measured) -> str:
    steps = " ".join(f"{s:.2f}" for s in m.seconds)
    return (
        f"{steps} s a step, {m.peak_gb:.2f} GB, {m.tokens} tokens, losses {[round(x, 4) for x in m.losses]}"
    )


def start_up(repeats: int = 10) -> dict[str, Any]:
    """Seconds until `--help` is printed. The first run of each, which fills caches, is not counted."""
    busy = warn_if_busy()
    binary = Path(sys.executable).with_name("accord")
    peer = [sys.executable, "-c", "from trl.cli import main; main()"]
    environments = [dict(os.environ), {**os.environ, "PYTHONPATH": str(HERE / ".peers" / TRL)}]
    seconds: list[list[float]] = [[], []]
    for _ in range(repeats + 1):
        for i, command in enumerate(([str(binary)], peer)):
            began = time.perf_counter()
            run_command([*command, "--help"], environments[i], "start-up")
            seconds[i].append(time.perf_counter() - began)
    ours, theirs = (median(s[1:]) for s in seconds)
    return {
        "speed_ratio": round(theirs / ours, 2),
        "ours_seconds": round(ours, 3),
        "peer_seconds": round(theirs, 3),
        "peer": TRL,
        "busy_cores": busy,
    }


def ceilings(dtype: str) -> Machine:
    """The machine's, measured now in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "speed.measure", "machine", dtype]
    machine = Machine(**json.loads(run_command(command, environment, "the machine's ceilings")))
    shown = f"{machine.gflops:.0f} GFLOP/s in {dtype}, {machine.gbytes:.1f} GB/s"
    print(f"  machine: {shown}", file=sys.stderr, flush=True)
    return machine


def warn_if_busy(seconds: float = 0.5) -> float | None:
    """Cores that are busy while nothing of ours runs, with a warning if it is more than a trifle.

    None where the system does not say. (The load average would count our own last measurement.)
    """
    if not STAT.exists():
        return None
    before = _ticks()
    time.sleep(seconds)
    total, idle = (after - before for after, before in zip(_ticks(), before, strict=True))
    busy = round((os.cpu_count() or 1) * (1 - idle / total), 2) if total else 0.0
    if busy > QUIET:
        text = f"warning: something else keeps {busy:.1f} of {os.cpu_count()} cores busy, and slows this down"
        print(f"  {text}", file=sys.stderr, flush=True)
    return busy


def _ticks() -> tuple[int, int]:
    """All processors' ticks since the start, and the idle ones of them."""
    fields = [int(word) for word in STAT.read_text().split("\n", 1)[0].split()[1:9]]
    return sum(fields), fields[3] + fields[4]
