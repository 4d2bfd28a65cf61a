"""Licences of sources: kept by version, shown beside each source, in the card and in what leaves."""

from __future__ import annotations

import csv
import io

import pytest

from accord.errors import LedgerError
from accord.ledger import Ledger, card, exchange, licences, projects, queue
from accord.ledger.database import utc_now
from accord.ledger.judging import submit
from accord.records import Completion, Group, Prompt, Question

SOURCES = ("wiki.jsonl:1", "wiki.jsonl:2", "shop.csv:7", "")


@pytest.fixture
def project(ledger: Ledger) -> str:
    """Four questions from three sources, each judged once."""
    with ledger.writing() as connection:
        now = utc_now()
        made = projects.add_project(connection, "p", "Choose.", overlap=1, form={}, now=now)
        asked = []
        for i, source in enumerate(SOURCES):
            prompt = Prompt.of(f"question {i}", source=source)
            pair = tuple(Completion(prompt.id, f"answer {i}.{k}") for k in range(2))
            asked.append(Question(Group(prompt, pair), "import"))
        projects.add_questions(connection, made, asked, now)
        found = projects.find_project(connection, made)
        assert found is not None
        rater = queue.find_rater(connection, queue.add_rater(connection, "ann", "human", now))
        for seen in queue.lease(
            connection, rater, found.guideline_id, now, limit=4, seconds=60, seed=1, project=made
        ):
            submit(connection, seen.id, 1, seconds=1.0, idempotency_key=None, now=now)
    return made


def license_(ledger: Ledger, project: str, source: str, licence: str) -> None:
    with ledger.writing() as connection:
        licences.set_licence(connection, project, source, licence, utc_now())


@pytest.mark.parametrize(
    ("named", "source"),
    [("a.jsonl:12", "a.jsonl"), ("http://x/y", "http://x/y"), ("", "not recorded"), ("a:b", "a:b")],
)
def test_a_source_is_what_the_prompt_names_without_the_line(named: str, source: str) -> None:
    assert licences.source_of(named) == source


def test_each_source_has_the_licence_that_was_given_last(ledger: Ledger, project: str) -> None:
    for licence in ("MIT", "MIT", " CC-BY-4.0 "):
        license_(ledger, project, "wiki.jsonl", licence)
    license_(ledger, project, "shop.csv", "own")
    license_(ledger, project, "shop.csv", "")
    with ledger.reading() as connection:
        assert licences.sources(connection, project) == [
            {"source": "not recorded", "items": 1, "licence": ""},
            {"source": "shop.csv", "items": 1, "licence": ""},
            {"source": "wiki.jsonl", "items": 2, "licence": "CC-BY-4.0"},
        ]
        assert licences.licences(connection, "another project") == {}
    for text in ("x" * 201, "two\nlines"):
        with pytest.raises(LedgerError, match="SPDX"):
            license_(ledger, project, "wiki.jsonl", text)
    assert ledger.verify().problems == ()


def test_the_card_says_which_licences_are_missing(ledger: Ledger, project: str) -> None:
    ledger.release("v1")
    with ledger.reading() as connection:
        before = card.data_card(connection, project)
        of_release = card.release_card(connection, project, "v1")
    for text in (before, of_release):
        assert "No source here has a licence on record" in text
        assert "| wiki.jsonl | none on record | 2 |" in text
    assert of_release.startswith("# v1, a release of p\n")
    license_(ledger, project, "wiki.jsonl", "CC-BY-4.0 | <b>")
    with ledger.reading() as connection:
        after = card.data_card(connection, project)
    assert r"| wiki.jsonl | CC-BY-4.0 \| &lt;b> | 2 |" in after
    assert "2 of 4 prompts have none on record" in after
    for source in ("shop.csv", "not recorded"):
        license_(ledger, project, source, "own")
    with ledger.reading() as connection:
        assert "on record" not in card.data_card(connection, project)


def test_the_card_of_a_release_says_what_was_taken_back_since(ledger: Ledger, project: str) -> None:
    from accord.ledger import answers

    ledger.release("v1")
    with ledger.writing() as connection:
        who = queue.add_rater(connection, "ann", "human", utc_now())
        answers.withdraw(connection, who, "all", utc_now())
        of_release = card.release_card(connection, project, "v1")
        today = card.data_card(connection, project)
    assert "4 of these judgements were taken back since" in of_release
    assert "4 judgements, which are not among these" in today


def test_what_leaves_names_source_and_licence(ledger: Ledger, project: str) -> None:
    license_(ledger, project, "wiki.jsonl", "CC-BY-4.0")
    with ledger.reading() as connection:
        rows = list(exchange.judgement_rows(connection, project))
        text = "".join(exchange.judgement_csv(connection, project))
        packed = exchange.parquet(
            exchange.preference_rows(connection, project), about={"accord.licences": "{}"}
        )
    told = sorted((row["source"], row["licence"]) for row in rows)
    expected = [("not recorded", ""), ("shop.csv", "")] + [("wiki.jsonl", "CC-BY-4.0")] * 2
    assert told == expected
    assert sorted((row["source"], row["licence"]) for row in csv.DictReader(io.StringIO(text))) == expected
    import pyarrow.parquet

    assert pyarrow.parquet.read_schema(io.BytesIO(packed)).metadata[b"accord.licences"] == b"{}"
