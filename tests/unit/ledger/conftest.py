"""A ledger with one guideline and one policy, and questions to put into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from accord.ledger import Ledger, database
from accord.records import Completion, Group, Prompt, Question, Sampling

Pairs = Callable[..., list[Question]]


@pytest.fixture(autouse=True, scope="session")
def no_fsync() -> Iterator[None]:
    """No test here cuts the power, and waiting for the disk takes most of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "SYNCHRONOUS", "OFF")
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger.open(path) as opened:
        opened.add_policy("p0", base_model="tiny")
        yield opened


@pytest.fixture
def guideline(ledger: Ledger) -> str:
    return ledger.add_guideline("Choose the more helpful answer.")


@pytest.fixture
def pairs() -> Pairs:
    def make(number: int, *, overlap: int = 1) -> list[Question]:
        return [_question(i, overlap) for i in range(number)]

    return make


def _question(i: int, overlap: int) -> Question:
    prompt = Prompt.of(f"question {i}", source="test", tags=("a", "b"))
    answers = tuple(
        Completion(
            prompt.id, f"answer {i}.{k}", (7, i, k), (-0.1, -0.2, -0.3), "p0", Sampling(seed=5), index=k
        )
        for k in range(2)
    )
    return Question(Group(prompt, answers), "random", overlap=overlap)
