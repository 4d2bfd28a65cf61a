"""What is measured: one kind of work on one model and one set of rows, the same for both sides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
LEARNING_RATE = 1e-4
LORA_RANK, LORA_ALPHA = 16, 32


@dataclass(frozen=True)
class Task:
    """One measurement. `data` is a folder that `rows.write` filled; all its pairs are every step's batch."""

    work: str
    model: str  # a Hugging Face folder
    data: str
    steps: int = 3  # measured ones, after one that is not
    prompts: int = 0  # for works that sample: so many of the folder's prompts
    answers: int = 1  # ... with so many answers to each
    new_tokens: int = 64  # ... of so many tokens each
    lora: bool = True
    dtype: str = "float32"
    peer_checkpointing: bool = False  # gradient checkpointing of the peer (slower, smaller)
    peer_weights: str = "float32"  # which the peer, in bfloat16, multiplies under autocast: TRL's default

    @property
    def sampled(self) -> int:
        """Answers that a step samples."""
        return self.prompts * self.answers

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Measured:
    """What a side did: seconds of each step after the first, losses, and how many tokens it trained on."""

    seconds: list[float]
    tokens: int  # answers' tokens in a step
    losses: list[float] = field(default_factory=list)
    peak_gb: float = 0.0  # of the process, in 10^9 bytes: resident memory, or on a GPU its tensors


def spread(rows: Sequence[T], n: int) -> list[T]:
    """`n` of the rows, at evenly spaced places."""
    return [rows[int((i + 0.5) * len(rows) / n)] for i in range(n)]


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
