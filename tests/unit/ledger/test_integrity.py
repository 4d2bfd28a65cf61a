"""The database refuses to rewrite history, and `verify` finds history that was rewritten anyway."""

from __future__ import annotations

import re
import shutil
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import insert

from accord.errors import LedgerError
from accord.ledger import Ledger, schema
from accord.records import Completion, Group, Prompt, Question, Sampling

APPEND_ONLY = {  # table: a column to change
    "judgement": "active_seconds",
    "preference": "strength",
    "presentation": "slot",
    "release_row": "row_hash",
    "audit": "actor",
    "release": "hash",
    "training_input": "run",
    "guideline_version": "body",
    "policy_version": "base_model",
    "sampling": "settings",
    "message": "content",
    "prompt": "source",
    "prompt_message": "message_id",
    "completion": "body",
    "item_candidate": "completion_id",
}
NEVER_REPLACED = list(APPEND_ONLY)[:7]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger file with some of everything in it."""
    path = tmp_path_factory.mktemp("finished") / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        ledger.add_policy("p0", base_model="tiny")
        guideline = ledger.add_guideline("Choose the kinder answer.")
        questions = []
        for i in range(4):
            prompt = Prompt.of(f"question {i}")
            texts = (
                Completion(prompt.id, f"answer {i}.{k}", (1, k), (-0.5, -0.25), "p0", Sampling(), index=k)
                for k in range(2)
            )
            questions.append(Question(Group(prompt, tuple(texts)), "random", overlap=2))
        ledger.ask(questions)
        for rater in ("ann", "ben"):
            ledger.add_rater(rater, "human")
        skipped = ledger.lease("ben", guideline)
        assert skipped is not None
        ledger.skip(skipped.id, "unclear")
        for rater in ("ann", "ben"):
            ledger.answer_many(rater, guideline, lambda seen: (2, 1.0), seed=1)
        ledger.revise(ledger.judgements()[0].id, 1, seconds=2)
        ledger.release("v1")
        ledger.record_training("p0", "v1")
        assert ledger.verify().problems == ()
    return path


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(finished, tmp_path / "ledger.sqlite"))


def execute(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)  # as somebody with a database shell: foreign keys are off
    try:
        connection.execute("PRAGMA synchronous = OFF")
        with connection:
            for statement in statements:
                connection.execute(statement)
    finally:
        connection.close()


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_rows_can_neither_be_changed_nor_removed(copy: Path, table: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match=f"{table} is append-only"):
        execute(copy, f"UPDATE {table} SET {APPEND_ONLY[table]} = 1")
    with pytest.raises(sqlite3.IntegrityError, match=f"{table} is append-only"):
        execute(copy, f"DELETE FROM {table}")


@pytest.mark.parametrize("table", NEVER_REPLACED)
def test_rows_cannot_be_replaced(copy: Path, table: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match=f"{table} is append-only"):
        execute(copy, f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}")


def test_only_the_status_of_a_judgement_can_change_and_not_back(copy: Path) -> None:
    execute(copy, "UPDATE judgement SET status = 'withdrawn'")
    with pytest.raises(sqlite3.IntegrityError, match="judgement is append-only"):
        execute(copy, "UPDATE judgement SET status = 'active'")


def test_the_ledger_itself_cannot_store_a_row_that_points_nowhere(copy: Path) -> None:
    row = {"item_id": "ghost", "slot": 0, "completion_id": "ghost"}
    with Ledger.open(copy) as ledger:
        with pytest.raises(LedgerError, match="FOREIGN KEY"), ledger._database.writing() as connection:
            connection.execute(insert(schema.item_candidate), row)
        assert ledger.verify().problems == ()


DAMAGE = {
    "message": (
        "UPDATE message SET content = 'x' WHERE content = 'question 1'",
        "message .* text does not match",
    ),
    "role": ("UPDATE message SET role = 'system'", "prompt .* its messages do not match"),
    "completion": (
        "UPDATE completion SET body = 'x' WHERE body = 'answer 1.0'",
        "completion .* text or origin",
    ),
    "sampling": ("UPDATE sampling SET settings = '{\"seed\": 1}'", "completion .* text or origin"),
    "tokens": ("UPDATE completion SET token_ids = x'01000000'", "its tokens or log-probabilities"),
    "logps": ("UPDATE completion SET logps = x''", "its tokens or log-probabilities"),
    "blob": ("UPDATE completion SET token_ids = x'01'", "texts: cannot be checked"),
    "guideline": ("UPDATE guideline_version SET body = 'x'", "guideline .* text does not match"),
    "policy": ("UPDATE policy_version SET base_model = 'x'", "policy_version p0 does not match its audit"),
    "rater kind": ("UPDATE annotator SET kind = 'model'", "annotator .* does not match its audit"),
    "reason": ("UPDATE item SET reason = 'x'", "item .* does not match its audit"),
    "more places": ("UPDATE item SET target_overlap = 9", "item .* does not match its audit"),
    "fewer places": ("UPDATE item SET target_overlap = 1", "item .* has 2 answers .* wants 1"),
    "state": ("UPDATE item SET state = 'open' WHERE seq = 2", "item .* is open with 2 of 2 answers"),
    "strength": ("UPDATE preference SET strength = 3", "judgement .* does not match its audit"),
    "flip": ("UPDATE preference SET slot_hi = slot_lo, slot_lo = slot_hi", "judgement .* does not match"),
    "seconds": ("UPDATE judgement SET active_seconds = 9", "judgement .* does not match its audit"),
    "status": ("UPDATE judgement SET status = 'superseded'", "is superseded, but should be active"),
    "sides": (
        "UPDATE presentation SET position = -position",
        "the sides on record are not those that were drawn",
    ),
    "seed": ("UPDATE assignment SET shown_seed = shown_seed + 1", "the sides on record are not those"),
    "assignment": ("UPDATE assignment SET state = 'expired'", "is expired, which does not agree"),
    "skip reason": ("UPDATE assignment SET skip_reason = 'x'", "assignment .* does not match its audit"),
    "other guideline": ("UPDATE assignment SET guideline_id = 'x'", "assignment row .* does not exist"),
    "lost answer": ("DELETE FROM preference", "judgement .* is in the audit trail, but not in the ledger"),
    "lost pair": (
        "DELETE FROM preference WHERE rowid = 1",
        "judgement .*: 0 preferences are on record for 2 answers",
    ),
    "lost judgement": ("DELETE FROM judgement", "judgement .* is in the audit trail, but not in the ledger"),
    "lost text": ("DELETE FROM completion", "item_candidate row .* completion that does not exist"),
    "lost release row": ("DELETE FROM release_row WHERE rowid = 1", "release 'v1': its rows do not match"),
    "release row": ("UPDATE release_row SET row_hash = 'x'", "is not as it was released"),
    "release": ("UPDATE release SET hash = 'x'", "release 'v1': its rows do not match its hash"),
    "training": ("UPDATE training_input SET model = 'x'", "training_input .* has no audit entry"),
    "actor": ("UPDATE audit SET actor = 'x' WHERE seq = 3", "audit entry 3: its content does not match"),
    "time": ("UPDATE audit SET at = 'x' WHERE seq = 3", "audit entry 3: its content does not match"),
    "chain": ("UPDATE audit SET prev_hash = 'x' WHERE seq = 3", "audit entry 3 does not follow"),
    "gap": ("DELETE FROM audit WHERE seq = 3", "audit: entry 3 is missing"),
    "cut off": ("DELETE FROM audit WHERE seq > 3", "has no audit entry"),
    "lost table": ("DROP TABLE presentation", "cannot be checked .*presentation"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_verify_finds_what_was_changed_behind_its_back(copy: Path, name: str) -> None:
    statement, expected = DAMAGE[name]
    connection = sqlite3.connect(copy)
    triggers = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
    connection.close()
    execute(copy, *(f"DROP TRIGGER {trigger}" for trigger in triggers))
    with Ledger.open(copy) as ledger:
        assert ledger.verify().problems == ()
    execute(copy, statement)
    with Ledger.open(copy) as ledger:
        report = ledger.verify()
    assert not report.ok
    assert re.search(expected, "\n".join(report.problems)), report.problems


def test_verify_finds_one_flipped_byte_in_the_file(copy: Path) -> None:
    content = copy.read_bytes()
    assert content.count(b"answer 2.1") == 1
    copy.write_bytes(content.replace(b"answer 2.1", b"answer 2.2"))
    with Ledger.open(copy) as ledger:
        (problem,) = ledger.verify().problems
    assert "text or origin does not match its id" in problem


def test_verify_reports_pages_that_cannot_be_read(copy: Path) -> None:
    content = copy.read_bytes()
    page = content.index(b"answer 2.1") // 4096 * 4096
    copy.write_bytes(content[:page] + b"\xff" * 4096 + content[page + 4096 :])
    with Ledger.open(copy) as ledger:
        report = ledger.verify()
    assert not report.ok
    assert any("malformed" in problem or "integrity" in problem for problem in report.problems)


def test_verify_finds_an_index_that_disagrees_with_its_table(copy: Path) -> None:
    """Rows are as they were, but what is looked up through the index may be missed."""
    empty = "(SELECT rootpage FROM sqlite_master WHERE name = 'ix_api_token_account_id')"
    swapped = f"UPDATE sqlite_master SET rootpage = {empty} WHERE name = 'ix_release_row_judgement_id'"
    execute(copy, "PRAGMA writable_schema = ON", swapped)
    with Ledger.open(copy) as ledger:
        problems = ledger.verify().problems
    assert any(problem.startswith("sqlite integrity check: ") for problem in problems), problems


def test_the_head_of_the_trail_moves_with_every_change_and_with_nothing_else(copy: Path) -> None:
    with Ledger.open(copy) as ledger:
        before = ledger.verify().head
        ledger.judgements()
        ledger.add_rater("ann", "human")  # known already
        assert ledger.verify().head == before
        ledger.add_rater("new", "human")
        assert ledger.verify().head != before
        assert ledger.verify().counts == ledger.counts()
