"""Releases never change, and lead from models to judgements and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from accord.errors import LedgerError
from accord.ledger import Assignment, Ledger


def strength(seen: Assignment) -> tuple[int, float]:
    preferred = 0 if int(seen.item_id, 16) % 3 else 1
    return (2 if seen.shown[0] == preferred else -2), 1.0


@pytest.fixture
def answered(ledger: Ledger, guideline: str, pairs) -> list[str]:
    ledger.add_rater("ann", "human")
    ids = ledger.ask(pairs(4))
    ledger.answer_many("ann", guideline, strength)
    return ids


def test_a_release_hash_does_not_depend_on_the_order_of_events(tmp_path: Path, pairs) -> None:
    hashes, ids = [], []
    for name, raters, turn in (("a", ("r1", "r2"), 1), ("b", ("r2", "r1"), -1)):
        with Ledger.open(tmp_path / name) as ledger:
            ledger.add_policy("p0", base_model="tiny")
            guideline = ledger.add_guideline("g")
            asked = ledger.ask(pairs(20, overlap=2)[::turn])
            for rater in raters:
                ledger.add_rater(rater, "simulated")
                ledger.answer_many(rater, guideline, strength, seed=3)
            release = ledger.release("all", item_ids=asked)
            assert ledger.release("again", item_ids=asked[::-1]).hash == release.hash
            hashes.append(release.hash)
            ids.append(sorted(release.judgement_ids))
    assert hashes[0] == hashes[1]
    assert ids[0] == ids[1]


def test_a_name_is_given_once(ledger: Ledger, answered: list[str]) -> None:
    first = ledger.release("v1")
    assert ledger.release("v1") == first
    assert len(first.judgement_ids) == 4
    with pytest.raises(LedgerError, match=r"'v1' exists with other content \(4 judgements"):
        ledger.release("v1", item_ids=answered[:2])
    assert ledger.release("part", item_ids=answered[:2]).hash != first.hash


def test_a_release_keeps_what_is_revised_later(ledger: Ledger, answered: list[str]) -> None:
    release = ledger.release("v1")
    before = ledger.release_judgements("v1")
    rows = ledger.preferences("v1")
    ledger.revise(before[0].id, 0, seconds=1)
    assert ledger.release_judgements("v1") == before
    assert ledger.preferences("v1") == rows
    assert [j.id for j in before] == list(release.judgement_ids)
    with pytest.raises(LedgerError, match="exists with other content"):
        ledger.release("v1")
    assert ledger.release("v2").hash != release.hash
    assert ledger.verify().problems == ()


def test_releases_that_cannot_be_made_or_found(ledger: Ledger, answered: list[str]) -> None:
    with pytest.raises(LedgerError, match="items not in the ledger: ghost"):
        ledger.release("v1", item_ids=["ghost"])
    with pytest.raises(LedgerError, match="'v1' would be empty"):
        ledger.release("v1", item_ids=[])
    ledger.release("v0")
    with pytest.raises(LedgerError, match="release 'v1' is not in the ledger; it has v0"):
        ledger.preferences("v1")
    with pytest.raises(LedgerError, match="release 'v1' is not in the ledger"):
        ledger.record_training("m", "v1")


def test_exported_rows_are_one_per_judgement_with_its_provenance(
    ledger: Ledger, guideline: str, pairs
) -> None:
    questions = pairs(3)
    ids = ledger.ask(questions)
    ledger.add_rater("ann", "human")
    wanted = dict(zip(ids, (3, 0, -1), strict=True))  # by slot
    judgements = ledger.answer_many(
        "ann",
        guideline,
        lambda seen: (wanted[seen.item_id] * (1 if seen.shown[0] == 0 else -1), 1.0),
    )
    ledger.release("v1")
    rows = ledger.preferences("v1")
    texts = [[c.text for c in q.group.completions] for q in questions]
    assert [(r.chosen, r.rejected) for r in rows] == [tuple(texts[0]), tuple(texts[1]), tuple(texts[2][::-1])]
    assert [(r.margin, r.tie) for r in rows] == [(3.0, False), (0.0, True), (1.0, False)]
    assert [r.prompt for r in rows] == [q.group.prompt for q in questions]
    assert [r.provenance for r in rows] == [(j.id,) for j in judgements]
    assert rows[2].to_row() == {
        "prompt": [{"role": "user", "content": "question 2"}],
        "chosen": [{"role": "assistant", "content": "answer 2.1"}],
        "rejected": [{"role": "assistant", "content": "answer 2.0"}],
        "margin": 1.0,
        "weight": 1.0,
    }


def test_models_and_judgements_find_each_other(ledger: Ledger, answered: list[str]) -> None:
    ledger.release("first", item_ids=answered[:2])
    ledger.release("rest", item_ids=answered[2:])
    for version, parent in (("p1", "p0"), ("p2", "p1"), ("p3", "p2"), ("q", "p0")):
        ledger.add_policy(version, base_model="tiny", parent=parent)
    for _ in range(2):
        ledger.record_training("p1", "first", run="run-1")
    ledger.record_training("p2", "rest")
    ledger.record_training("reward", "rest")
    assert ledger.counts()["trainings"] == 3
    assert ledger.trained_on("p0") == ledger.trained_on("q") == []
    assert ledger.trained_on("p1") == ["first"]
    assert ledger.trained_on("p2") == ["first", "rest"]  # through its parent
    touched = {
        name: ledger.models_touched_by(ledger.release_judgements(name)[0].id) for name in ("first", "rest")
    }
    assert touched == {"first": ["p1", "p2", "p3"], "rest": ["p2", "p3", "reward"]}
    for model in ("p0", "p1", "p2", "p3", "q", "reward"):
        behind = {j.id for name in ledger.trained_on(model) for j in ledger.release_judgements(name)}
        assert behind == {j.id for j in ledger.judgements() if model in ledger.models_touched_by(j.id)}
    with pytest.raises(LedgerError, match="judgement 'ghost' is not in the ledger"):
        ledger.models_touched_by("ghost")
    assert ledger.verify().problems == ()
