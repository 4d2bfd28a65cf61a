"""Where our time goes: the operations that take most of it, under torch's profiler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiled

from speed.task import Task

TOP = 15


@dataclass(frozen=True)
class Profile:
    """Seconds of all operations together, and (name, calls, seconds) of the longest."""

    seconds: float
    top: list[tuple[str, int, float]]


def profile(task: Task) -> Profile:
    """Of a work's whole run (preparation included), each operation without those that it calls."""
    from speed.ours import OURS

    lanes_too = _ExperimentalConfig(profile_all_threads=True)
    with profiled(activities=[ProfilerActivity.CPU], acc_events=True, experimental_config=lanes_too) as found:
        OURS["dpo-cached" if task.work == "dpo" else task.work](task)  # "dpo" would time the reference twice
    return summary(found.key_averages())


def summary(events: Sequence[Any]) -> Profile:
    rows = [(e.key, int(e.count), e.self_cpu_time_total / 1e6) for e in events]
    rows.sort(key=lambda row: -row[2])
    return Profile(sum(seconds for *_, seconds in rows), rows[:TOP])


def table(found: Profile) -> str:
    """Lines of share, seconds, calls and name."""
    lines = [f"{'share':>6} {'seconds':>8} {'calls':>7}  of {found.seconds:.1f} s in operations"]
    lines += [f"{s / found.seconds:6.1%} {s:8.2f} {calls:7}  {name}" for name, calls, s in found.top]
    return "\n".join(lines)
