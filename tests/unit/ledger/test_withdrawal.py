"""The erasure drill: what a person withdraws is in no byte of the database, and the record stays whole."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from accord.errors import LedgerError
from accord.ledger import Ledger, accounts, answers, queue, tokens
from accord.ledger.answers import Beside
from accord.ledger.database import utc_now
from accord.records import Question

LOGIN = "marguerite.duras@example.org"
COMMENT = "my grandmother in Sadec would say so"
TOKEN_NAME = "the laptop in my kitchen in Vinh Long"
REWRITTEN = "As I told my sister, the ferry leaves at noon."


@pytest.fixture
def annotator_id(ledger: Ledger, guideline: str, pairs: Callable[..., list[Question]]) -> str:
    """Somebody who judged, wrote and was trained on."""
    ledger.ask(pairs(3))
    with ledger.writing() as connection:
        now = utc_now()
        account = accounts.add_account(connection, LOGIN, "argon2-hash-of-hers", admin=False, now=now)
        accounts.start_session(connection, account, now)
        tokens.add_token(connection, account, TOKEN_NAME, ["read"], seconds=60, now=now)
        found = accounts.by_id(connection, account)
        assert found is not None
        rater = queue.find_rater(connection, found[0].annotator_id)
        for n, seen in enumerate(
            queue.lease(connection, rater, guideline, now, limit=2, seconds=900, seed=1)
        ):
            said = Beside(comment=f"{COMMENT} {n}", edit=(0, f"{REWRITTEN} {n}"))
            answers.record(
                connection, seen.id, 2, said, seconds=1, idempotency_key=f"k{n}", revises=None, now=now
            )
    ledger.release("v1")
    ledger.add_policy("p1", base_model="tiny", parent="p0")
    ledger.record_training("p0", "v1")
    return rater.id


def withdraw(ledger: Ledger, annotator_id: str, scope: str) -> dict[str, int]:
    with ledger.writing() as connection:
        counts = answers.withdraw(connection, annotator_id, scope, utc_now())
    ledger.compact()
    return counts


SCOPES = {  # scope: what was done; what is gone; what stays
    "identity": ({"accounts": 1, "texts": 0, "judgements": 0}, (LOGIN, TOKEN_NAME), (COMMENT, REWRITTEN)),
    "text": ({"accounts": 1, "texts": 4, "judgements": 0}, (LOGIN, TOKEN_NAME, COMMENT, REWRITTEN), ()),
    "all": ({"accounts": 1, "texts": 4, "judgements": 2}, (LOGIN, TOKEN_NAME, COMMENT, REWRITTEN), ()),
}


@pytest.mark.parametrize("scope", SCOPES)
def test_no_byte_is_left_of_what_is_withdrawn(
    ledger: Ledger, annotator_id: str, path: Path, scope: str
) -> None:
    done, gone, stays = SCOPES[scope]

    def everything() -> bytes:
        return b"".join(file.read_bytes() for file in sorted(path.parent.glob(f"{path.name}*")))

    before = everything()
    assert all(text.encode() in before for text in (*gone, *stays, "argon2-hash-of-hers"))
    assert withdraw(ledger, annotator_id, scope) == done
    after = everything()
    assert [text for text in (*gone, "argon2-hash-of-hers") if text.encode() in after] == []
    assert all(text.encode() in after for text in stays)
    assert ledger.verify().problems == ()


@pytest.mark.parametrize("scope", SCOPES)
def test_what_it_touches_is_listed_and_the_old_release_stays(
    ledger: Ledger, annotator_id: str, scope: str
) -> None:
    withdraw(ledger, annotator_id, scope)
    with ledger.reading() as connection:
        touched = answers.affected(connection, annotator_id)
    assert touched == {"releases": ["v1"], "models": ["p0", "p1"]}
    assert len(ledger.release_judgements("v1")) == 2
    if scope == "all":
        assert ledger.judgements() == []
        with pytest.raises(LedgerError, match="would be empty"):
            ledger.release("v2")
    else:
        assert len(ledger.judgements()) == 2
    assert ledger.verify().problems == ()


def test_withdrawing_again_or_further_is_harmless(ledger: Ledger, annotator_id: str) -> None:
    withdraw(ledger, annotator_id, "identity")
    assert withdraw(ledger, annotator_id, "all") == {"accounts": 0, "texts": 4, "judgements": 2}
    assert withdraw(ledger, annotator_id, "all") == {"accounts": 0, "texts": 0, "judgements": 0}
    with pytest.raises(LedgerError, match="'some' is not one of identity, text, all"):
        withdraw(ledger, annotator_id, "some")
    assert ledger.verify().problems == ()


def test_an_erased_text_cannot_be_put_back(ledger: Ledger, annotator_id: str, path: Path) -> None:
    withdraw(ledger, annotator_id, "text")
    shell = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        shell.execute("UPDATE answer SET body = 'x'")
    shell.close()
