"""What a running loop is doing, in `live.json` of its folder, for the page that shows it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accord.stages.people import Waiting
from accord.training.checkpoint import write_atomically

LIVE = "live.json"


@dataclass
class Live:
    """Say what is done now. Every change is written at once, and atomically."""

    path: Path
    steps: Sequence[str]  # all that the loop will do, in order
    project: str = ""  # in which people are asked: its people may look
    told: dict[str, Any] = field(default_factory=dict)

    def begin(self, step: str) -> None:
        self._write(step=step, since=_now(), waiting=None)

    def waiting(self, waiting: Waiting) -> None:
        self._write(waiting=waiting.to_json() if waiting.given < waiting.needed else None)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around the whole run: how it ended is the last thing that is told."""
        self.told = {
            "steps": list(self.steps),
            "project": self.project,
            "pid": os.getpid(),
            "began": _now(),
            "ended": "",
        }
        self._write(step=None, since=_now(), waiting=None)
        try:
            yield
        except Exception as error:
            self._write(ended=" ".join(str(error).split())[:500] or type(error).__name__)
            raise
        except BaseException:  # Ctrl-C, or the process is told to leave
            self._write(ended="stopped")
            raise
        self._write(step=None, ended="finished")

    def _write(self, **changes: Any) -> None:
        self.told |= {**changes, "at": _now()}
        write_atomically(self.path, json.dumps(self.told, indent=1))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
