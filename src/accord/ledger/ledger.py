"""The ledger: what raters saw and said, which snapshot of it was released, and what was trained on it.

Each method is one transaction: when it returns, the change is on disk; when it raises, nothing changed.
A ledger may be used by many threads and processes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from sqlalchemy import Connection

from accord.errors import LedgerError
from accord.ledger import judging, lineage, queue, store
from accord.ledger import verify as verification
from accord.ledger.database import Database, open_database, utc_now
from accord.ledger.judging import Answer, Said
from accord.ledger.lineage import Release
from accord.ledger.queue import Assignment
from accord.ledger.verify import VerifyReport
from accord.records import Completion, Group, Judgement, Preference, Prompt, Question, RaterKind

LEASE_SECONDS = 900.0
Kind = Literal["pair", "ranking"]


class Ledger:
    """Open one with `Ledger.open`. Every method raises LedgerError for what it refuses."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, where: str | Path, *, create: bool = True) -> Ledger:
        """Open the ledger at a path or SQLAlchemy URL, bringing an older schema up to date.

        Raises LedgerError when the file is not a ledger, is damaged, comes from a newer Accord, or is
        missing and `create` is False.
        """
        return cls(open_database(where, create=create))

    @property
    def name(self) -> str:
        """The path of the file, or the database's URL."""
        return self._database.name

    def close(self) -> None:
        self._database.engine.dispose()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def reading(self) -> AbstractContextManager[Connection]:
        """One transaction that reads, for the functions of accounts.py, projects.py and answers.py."""
        return self._database.reading()

    def writing(self) -> AbstractContextManager[Connection]:
        """The same for writing: all of it, or nothing. Others who write wait, so be quick."""
        return self._database.writing()

    # Who, by which rules, and what

    def add_rater(self, pseudonym: str, kind: RaterKind) -> str:
        """The rater's id. Idempotent; a rater cannot change kind."""
        with self._database.writing() as connection:
            return queue.add_rater(connection, pseudonym, kind, utc_now())

    def add_guideline(self, text: str) -> str:
        """The id of this version of the guideline, which is a hash of its text. Idempotent."""
        with self._database.writing() as connection:
            return store.add_guideline(connection, text, utc_now())

    def add_policy(
        self,
        version: str,
        *,
        base_model: str,
        weights_sha256: str = "",
        step: int = 0,
        parent: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> str:
        """Record a policy version. Idempotent; a version cannot change. A parent must be known."""
        try:
            settings = store.canonical_json(dict(config or {}))
        except (TypeError, ValueError) as error:
            raise LedgerError(
                f"policy version {version!r}: its config is not plain JSON ({error})"
            ) from error
        row = {
            "id": version,
            "base_model": base_model,
            "weights_sha256": weights_sha256,
            "step": step,
            "parent_id": parent,
            "config": settings,
        }
        if not version:
            raise LedgerError("a policy version needs a name")
        with self._database.writing() as connection:
            store.add_policy(connection, row, utc_now())
        return version

    def add_groups(self, groups: Iterable[Group]) -> None:
        """Store prompts and completions. Idempotent; policy versions that they name must be known."""
        with self._database.writing() as connection:
            store.add_groups(connection, list(groups), utc_now())

    # Asking and answering

    def ask(self, questions: Iterable[Question]) -> list[str]:
        """Put pairs and rankings to raters; the item ids, in the order of the questions. Stores their groups.

        Asking about the same answers again, in any order, gives the same item with its first slots and
        reason; a larger overlap reopens it for more answers.
        """
        with self._database.writing() as connection:
            return queue.ask(connection, list(questions), utc_now())

    def lease(
        self,
        rater: str,
        guideline: str,
        *,
        seconds: float = LEASE_SECONDS,
        seed: int | None = None,
        kind: Kind = "pair",
    ) -> Assignment | None:
        """The next item for this rater (pseudonym or id), held for `seconds`; None when there is none.

        Items that the rater has answered, skipped or holds are passed over, and so are items whose places
        are all taken by answers and running leases. `seed` fixes on which side each answer stands.
        """
        with self._database.writing() as connection:
            who = queue.find_rater(connection, rater)
            found = queue.lease(
                connection, who, guideline, utc_now(), limit=1, seconds=seconds, seed=seed, kind=kind
            )
        return found[0] if found else None

    def submit(
        self,
        assignment_id: str,
        displayed: Said,
        *,
        seconds: float,
        idempotency_key: str | None = None,
    ) -> Judgement:
        """Answer an assignment: from 3 (the left answer is much better) over 0 (tie) to -3 (the right).

        A ranking is answered by each displayed answer's place: 1 for the best, equal numbers for ties.
        `seconds` is the rater's active time. Repeating a call with its `idempotency_key` returns the
        judgement it made. An answer that comes after its lease ran out counts while its place is free.
        """
        with self._database.writing() as connection:
            return judging.submit(
                connection,
                assignment_id,
                displayed,
                seconds=seconds,
                idempotency_key=idempotency_key,
                now=utc_now(),
            )

    def answer_many(
        self,
        rater: str,
        guideline: str,
        answer: Callable[[Assignment], tuple[Said, float]],
        *,
        limit: int | None = None,
        seed: int | None = None,
        chunk: int = 256,
        kind: Kind = "pair",
    ) -> list[Judgement]:
        """Let one rater answer open items, at most `limit`, through the same rules as lease and submit.

        `answer` returns the displayed strength (of a ranking, the ranks) and the seconds it took. It runs
        inside a transaction of up to `chunk` items, so others wait for it: for a slow judge choose a small
        chunk, or lease and submit. When it raises, its chunk leaves no trace and earlier chunks stay.
        """
        judgements: list[Judgement] = []
        while limit is None or len(judgements) < limit:
            size = chunk if limit is None else min(chunk, limit - len(judgements))
            with self._database.writing() as connection:
                now = utc_now()
                who = queue.find_rater(connection, rater)
                leased = queue.lease(
                    connection,
                    who,
                    guideline,
                    now,
                    limit=size,
                    seconds=LEASE_SECONDS,
                    seed=seed,
                    kind=kind,
                )
                answers = [Answer(seen, who, *answer(seen)) for seen in leased]
                for given in answers:
                    judging.check_answer(given.said, given.seconds, len(given.assignment.shown))
                judgements += judging.record(connection, answers, now)
            if len(leased) < size:
                break
        return judgements

    def skip(self, assignment_id: str, reason: str) -> None:
        """Give an assignment back unanswered. Its place is free for others, not for this rater."""
        with self._database.writing() as connection:
            queue.skip(connection, assignment_id, reason, utc_now())

    def revise(self, judgement_id: str, displayed: Said, *, seconds: float) -> Judgement:
        """Change an answer: a new revision that supersedes the newest one, sides as they were shown."""
        with self._database.writing() as connection:
            return judging.revise(connection, judgement_id, displayed, seconds=seconds, now=utc_now())

    # Reading

    def judgements(
        self, *, item_ids: Iterable[str] | None = None, include_superseded: bool = False
    ) -> list[Judgement]:
        """Judgements of all items or of some, in the order of asking, then by rater and revision."""
        with self._database.reading() as connection:
            return judging.read_judgements(
                connection, item_ids=item_ids, include_superseded=include_superseded
            )

    def group(self, item_id: str) -> Group:
        """The item's prompt and completions, in canonical slots."""
        return self._one(store.read_groups, item_id, "item")

    def completion(self, completion_id: str) -> Completion:
        return self._one(store.read_completions, completion_id, "completion")

    def prompt(self, prompt_id: str) -> Prompt:
        return self._one(store.read_prompts, prompt_id, "prompt")

    def _one(self, read: Callable[..., Mapping[str, Any]], key: str, what: str) -> Any:
        with self._database.reading() as connection:
            found = read(connection, [key])
        if key not in found:
            raise LedgerError(f"{what} {key!r} is not in the ledger; check the id")
        return found[key]

    # Releases and lineage

    def release(self, name: str, *, item_ids: Iterable[str] | None = None) -> Release:
        """Freeze the active judgements (of some items) under a name, which then never changes."""
        items = None if item_ids is None else list(item_ids)
        with self._database.writing() as connection:
            return lineage.make_release(connection, name, items, utc_now())

    def release_judgements(self, name: str) -> list[Judgement]:
        """The judgements of a release as they were released, in the order of asking, then by rater."""
        with self._database.reading() as connection:
            return lineage.release_judgements(connection, name)

    def preferences(self, name: str) -> list[Preference]:
        """One preference per judgement of a release: margin 0 to 3, provenance the judgement's id.

        A ranking of k gives its k(k-1)/2 pairs, of margin 0 and weight 1/(k-1).
        """
        with self._database.reading() as connection:
            return lineage.release_preferences(connection, name)

    def record_training(self, model: str, release: str, *, run: str = "") -> None:
        """Note that `model` was trained on a release. Idempotent."""
        with self._database.writing() as connection:
            lineage.record_training(connection, model, release, run, utc_now())

    def trained_on(self, model: str) -> list[str]:
        """Names of the releases behind a model and behind the policy versions it descends from."""
        with self._database.reading() as connection:
            return lineage.trained_on(connection, model)

    def models_touched_by(self, judgement_id: str) -> list[str]:
        """Models trained on a release that holds the judgement, and the policy versions made from them."""
        with self._database.reading() as connection:
            return lineage.models_touched_by(connection, judgement_id)

    # Trust

    def compact(self) -> None:
        """Rewrite the file (SQLite), so that no byte of what a withdrawal erased is left in it."""
        self._database.compact()

    def verify(self) -> VerifyReport:
        """Recompute every hash and check every rule. Reads the whole ledger; reports, never raises."""
        try:
            with self._database.reading() as connection:
                return verification.verify(connection)
        except LedgerError as error:
            return VerifyReport(ok=False, problems=(str(error),))

    def counts(self) -> dict[str, int]:
        """How many raters, prompts, items, judgements and so on."""
        with self._database.reading() as connection:
            return verification.counts(connection)
