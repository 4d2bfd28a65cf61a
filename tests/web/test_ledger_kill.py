"""Nothing lost: the real server is killed at random moments under load, and started again.

The load is the benchmark's (benchmarks/leases.py): raters that lease, answer, and retry with the same key.
"""

from __future__ import annotations

import importlib.util
import random
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

KILLS = 3
RATERS, QUESTIONS, OVERLAP = 4, 40, 3


@pytest.fixture(scope="module")
def load() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "leases.py"
    spec = importlib.util.spec_from_file_location("leases_benchmark", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_what_was_acknowledged_is_there_once_however_often_the_server_is_killed(
    tmp_path: Path, load: ModuleType
) -> None:
    db, port = str(tmp_path / "ledger.sqlite"), load.free_port()
    raters = load.prepare(db, raters=RATERS, questions=QUESTIONS, overlap=OVERLAP, port=port)
    server = load.start(db, port)
    threads = [threading.Thread(target=rater.work) for rater in raters]
    draw = random.Random(7)
    try:
        for thread in threads:
            thread.start()
        for _ in range(KILLS):
            threads[0].join(draw.uniform(0.1, 0.6))
            server.kill()
            server.communicate()
            told = sum(len(rater.acknowledged) for rater in raters)
            server = load.start(db, port)
        for thread in threads:
            thread.join(60)
    finally:
        for rater in raters:
            rater.stop.set()
        server.kill()
        server.communicate()
    assert 0 < told < QUESTIONS * OVERLAP, "it was killed while there was something to do"
    assert sum(rater.retries for rater in raters) > 0, "and the raters noticed"
    assert load.problems(db, raters, OVERLAP) == []
    # Retries with a key count once, so nobody was told of two answers to one question.
    assert sum(len(rater.acknowledged) for rater in raters) == QUESTIONS * OVERLAP


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_many_raters_at_once_over_http(
    tmp_path: Path, load: ModuleType, backend: str, request: pytest.FixtureRequest
) -> None:
    """The full size (50 raters, 1,000 questions) is the benchmark's."""
    db = str(tmp_path / "ledger.sqlite") if backend == "sqlite" else request.getfixturevalue("postgres_url")
    port = load.free_port()
    raters = load.prepare(db, raters=20, questions=40, overlap=3, port=port)
    with load.serving(db, port):
        load.run(raters)
    assert load.problems(db, raters, 3) == []
    assert sum(len(rater.acknowledged) for rater in raters) == 120


@pytest.fixture
def postgres_url() -> object:
    from postgres_server import running

    with running() as new_database:
        yield new_database()
