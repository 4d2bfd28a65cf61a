"""A run can be stopped and goes on; its log has every step once."""

from __future__ import annotations

import io
import json
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from accord.errors import CheckpointError
from accord.training.run import InterruptedRunError, Run, counting, read_metrics, run_steps

QUIET = Console(quiet=True)


class Counter:
    """State whose value after n steps is known: 0 + 1 + ... in floating point."""

    def __init__(self) -> None:
        self.total = torch.zeros(())
        self.extra: dict[str, Any] = {"calls": 0}

    def tensors(self) -> dict[str, Tensor]:
        return {"total": self.total}

    def restore(self, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
        self.total = tensors["total"].clone()
        self.extra = dict(extra)

    def finish(self) -> None:
        self.extra["finished"] = True

    def step(self, number: int) -> dict[str, float]:
        self.total = self.total + number
        self.extra["calls"] += 1
        return {"loss": float(self.total)}


def job(folder: Path, steps: int = 7, fingerprint: str = "a") -> Run:
    return Run(folder, "counting", steps, 3, fingerprint)


def test_steps_are_logged_once_and_in_order(tmp_path: Path) -> None:
    rows = run_steps(job(tmp_path), state := Counter(), state.step, QUIET)
    assert [row["step"] for row in rows] == list(range(1, 8))
    assert [row["loss"] for row in rows] == [0, 1, 3, 6, 10, 15, 21]
    assert state.extra["finished"]
    assert [row["step"] for row in read_metrics(tmp_path)] == list(range(1, 8))


@pytest.mark.parametrize("killed_at", [1, 3, 4, 6])
def test_a_run_that_died_goes_on_from_its_last_checkpoint(tmp_path: Path, killed_at: int) -> None:
    def dies(state: Counter, number: int) -> dict[str, float]:
        if number == killed_at:
            raise RuntimeError("killed")
        return state.step(number)

    first = Counter()
    with pytest.raises(RuntimeError, match="killed"):
        run_steps(job(tmp_path), first, lambda n: dies(first, n), QUIET)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')  # a line cut short
    second = Counter()
    rows = run_steps(job(tmp_path), second, second.step, QUIET)
    assert float(second.total) == 21
    assert second.extra["calls"] == 7
    assert [row["step"] for row in rows] == list(range(1, 8))
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()] == list(range(1, 8))


def test_ctrl_c_saves_at_once(tmp_path: Path) -> None:
    state = Counter()
    before = signal.getsignal(signal.SIGINT)

    def step(number: int) -> dict[str, float]:
        if number == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return state.step(number)

    with pytest.raises(InterruptedRunError, match=r"after step 5 of 7 and saved; run the same command"):
        run_steps(job(tmp_path), state, step, QUIET)
    again = Counter()
    run_steps(job(tmp_path), again, again.step, QUIET)
    assert float(again.total) == 21
    assert signal.getsignal(signal.SIGINT) is before


def test_other_settings_do_not_go_on(tmp_path: Path) -> None:
    run_steps(job(tmp_path), state := Counter(), state.step, QUIET)
    with pytest.raises(CheckpointError, match="give another --out"):
        run_steps(job(tmp_path, fingerprint="b"), state := Counter(), state.step, QUIET)


def test_a_bar_reports_progress() -> None:
    console = Console(record=True, force_terminal=True, width=110, file=io.StringIO())
    with counting(console, "sampling", 4, "answers") as report:
        report(1, 3)  # of fewer than was thought
        report(3, 3)
    last = console.export_text().splitlines()[-1]
    assert re.search(r"sampling +.* 3/3 .* [\d.]+ answers/s", last), last
