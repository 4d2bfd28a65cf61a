"""A ledger with one guideline and one policy, and questions to put into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from accord.ledger import Ledger, database
from accord.records import Completion, Group, Prompt, Question, Sampling
from postgres_server import running

Pairs = Callable[..., list[Question]]


@pytest.fixture(autouse=True, scope="session")
def no_fsync() -> Iterator[None]:
    """No test here cuts the power, and waiting for the disk takes most of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "SYNCHRONOUS", "OFF")
        yield


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Everything is tested on both databases, except what looks into SQLite's file (`path`)."""
    if "where" in metafunc.fixturenames:
        both = ["sqlite"] if "path" in metafunc.fixturenames else ["sqlite", "postgresql"]
        metafunc.parametrize("where", both, indirect=True)


@pytest.fixture(scope="session")
def new_postgres() -> Iterator[Callable[[], str]]:
    with running() as new_database:
        yield new_database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What to open: the path of a SQLite file, or the URL of an empty PostgreSQL database."""
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite")
    return str(request.getfixturevalue("new_postgres")())


@pytest.fixture(params=["sqlite", "postgresql"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Of a ledger of today, and of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'today.sqlite'}", f"sqlite:///{tmp_path / 'old.sqlite'}"
    new = request.getfixturevalue("new_postgres")
    return new(), new()


@pytest.fixture
def ledger(where: str) -> Iterator[Ledger]:
    with Ledger.open(where) as opened:
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
