"""Out and in again: what a file says is what was judged, for the trainers that read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from accord.data.datasets import load_demonstrations, load_preferences, load_unpaired
from accord.errors import LedgerError
from accord.ledger import Ledger, answers, exchange, projects, queue, store
from accord.ledger.answers import Beside
from accord.ledger.card import data_card
from accord.ledger.database import utc_now
from accord.records import Preference, Prompt, Question

STRENGTHS = (3, 0, -2, 0)  # for slot 0; the last of them: both bad


@pytest.fixture
def project(ledger: Ledger, pairs: Callable[..., list[Question]]) -> str:
    """Four questions, judged by ann and (the first two) by ben."""
    with ledger.writing() as connection:
        now = utc_now()
        project_id = projects.add_project(connection, "A | b", "Choose.", overlap=2, form={}, now=now)
        projects.add_questions(connection, project_id, pairs(4, overlap=2), now)
        found = projects.find_project(connection, project_id)
        assert found is not None
        for name, limit in (("ann", 4), ("ben", 2)):
            queue.add_rater(connection, name, "human", now)
            rater = queue.find_rater(connection, name)
            leased = queue.lease(
                connection, rater, found.guideline_id, now, limit=limit, seconds=9, seed=1, project=project_id
            )
            for n, (seen, strength) in enumerate(zip(leased, STRENGTHS, strict=False)):
                shown = strength if seen.shown[0] == 0 else -strength
                edit = (seen.shown.index(1), "better still") if n == 0 else None
                said = Beside(both_bad=n == 3, edit=edit, comment='=HYPERLINK("http://evil")')
                answers.record(
                    connection, seen.id, shown, said, seconds=1, idempotency_key=f"{name}{n}", revises=None,
                    now=now,
                )  # fmt: skip
    return project_id


def written(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_preferences_survive_the_way_out_and_in(ledger: Ledger, project: str, tmp_path: Path) -> None:
    with ledger.reading() as connection:
        rows = list(exchange.preference_rows(connection, project))
    (tmp_path / "rows.parquet").write_bytes(exchange.parquet(rows))
    for path in (written(tmp_path / "rows.jsonl", rows), str(tmp_path / "rows.parquet")):
        loaded = load_preferences(path)
        assert not loaded.problems
        assert [(r.chosen, r.rejected, r.margin, r.tie) for r in loaded.rows if not r.tie] == [
            ("answer 0.0", "answer 0.1", 3.0, False),
            ("answer 0.0", "answer 0.1", 3.0, False),
            ("answer 2.1", "answer 2.0", 2.0, False),
        ]
        assert sum(r.tie for r in loaded.rows) == 3


def test_unpaired_rows_are_what_kto_reads(ledger: Ledger, project: str, tmp_path: Path) -> None:
    with ledger.reading() as connection:
        path = written(tmp_path / "kto.jsonl", exchange.unpaired_rows(connection, project))
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    said = sorted((line["completion"][0]["content"], line["label"]) for line in lines)
    assert said == [
        ("answer 0.0", True), ("answer 0.0", True), ("answer 0.1", False), ("answer 0.1", False),
        ("answer 2.0", False), ("answer 2.1", True), ("answer 3.0", False), ("answer 3.1", False),
    ]  # fmt: skip
    assert len(load_unpaired(path).rows) == 8


def test_rankings_and_demonstrations(ledger: Ledger, project: str, tmp_path: Path) -> None:
    with ledger.reading() as connection:
        ranked = list(exchange.ranking_rows(connection, project))
        path = written(tmp_path / "sft.jsonl", exchange.demonstration_rows(connection, project))
    assert [row["ranking"] for row in ranked] == [[1, 2], [1, 2], [1, 1], [1, 1], [2, 1], [1, 1]]
    assert len(load_demonstrations(path).rows) == 2


def test_no_cell_of_a_csv_is_a_formula(ledger: Ledger, project: str) -> None:
    with ledger.reading() as connection:
        lines = list(exchange.judgement_csv(connection, project))
    assert len(lines) == 7 and all(""","'=HYPERLINK(""" in line for line in lines[1:])


def test_the_card_is_computed_from_the_rows(ledger: Ledger, project: str) -> None:
    with ledger.writing() as connection:
        ben = queue.find_rater(connection, "ben")
        card = data_card(connection, project)
        answers.withdraw(connection, ben.id, "all", utc_now())
        later = data_card(connection, project)
    assert card.startswith("# A \\| b\n")
    for line in (
        "| Judgements | 6 of 4 questions |",
        "| Ties | 3 |",
        "| Raters | 2 human |",
        "| Agreement | 100.0% of 2 pairs of judgements of one question |",
        "| Withdrawn | 0 judgements",
        "| test | none on record | 4 |",
        "| random | 6 |",
    ):
        assert line in card
    assert "| Judgements | 4 of 4 questions |" in later and "| Withdrawn | 2 judgements" in later
    assert "unknown: no question has two judgements" in later


def test_rows_that_disagree_give_no_known_answer(ledger: Ledger) -> None:
    """Two people of another tool: of one mind on the first question, not on the others."""
    said = {"one mind": ("ab", "ab"), "two minds": ("ab", "ba"), "a tie": ("ab", "a=b")}
    rows = [
        Preference(Prompt.of(name), answers_[0], answers_[-1], tie="=" in answers_)
        for name, opinions in said.items()
        for answers_ in opinions
    ]
    with ledger.writing() as connection:
        now = utc_now()
        mine = projects.add_project(connection, "A", "Choose.", overlap=1, form={}, now=now)
        added = exchange.add_preferences(connection, mine, rows, overlap=1, reason="gold", gold=True, now=now)
        known = projects.gold_answers(connection, mine)
        prompts = [g.prompt.messages[0].content for g in store.read_groups(connection, known).values()]
    assert (added, prompts) == ((3, 3), ["one mind"])


def test_an_empty_parquet_file_is_refused() -> None:
    with pytest.raises(LedgerError, match="nothing to write yet"):
        exchange.parquet([])
