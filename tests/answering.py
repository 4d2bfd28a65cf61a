"""People who answer, for tests: threads that judge whatever a run's ledger asks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from accord.ledger import projects
from accord.ledger.ledger import Assignment, Ledger


@contextlib.contextmanager
def raters(out: Path, *names: str, most: int | None = None) -> Iterator[None]:
    """People who answer whatever the ledger's projects ask, each at most `most` questions."""
    stop = threading.Event()

    def answer(name: str) -> None:
        left = most
        while not (out / "ledger.sqlite").exists():
            if stop.wait(0.1):
                return
        with Ledger.open(out / "ledger.sqlite") as ledger:
            ledger.add_rater(name, "human")
            while not stop.wait(0.1) and left != 0:
                with ledger.reading() as connection:
                    ids = projects.all_projects(connection)
                    texts = [projects.guidelines(connection, i)[0].id for i in ids]
                if texts:
                    made = ledger.answer_many(name, texts[0], lambda seen: (_longer(seen), 2.0), limit=left)
                    left = None if left is None else left - len(made)

    threads = [threading.Thread(target=answer, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _longer(seen: Assignment) -> int:
    left, right = (len(side.text) for side in (seen.left, seen.right))
    return 2 * ((left > right) - (left < right)) or 1
