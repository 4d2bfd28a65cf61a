"""Rankings: several answers in order, with ties; sides never matter, and each leads back."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import MetaData, create_engine, func, insert, select, text

from accord.errors import LedgerError
from accord.ledger import Ledger, database, judging, queue, rankings, schema
from accord.ledger.judging import Answer
from accord.ledger.queue import Assignment, Rater
from accord.records import Group, Judgement, Prompt, Question

TEXTS = ("bad", "good", "best", "fair")
ORDER = {"best": 1, "good": 2, "fair": 2, "bad": 4}  # good and fair are tied
ranks_of_four = st.lists(st.integers(1, 4), min_size=4, max_size=4)


def question(*texts: str, asked: str = "hello", overlap: int = 1) -> Question:
    return Question(Group.of(Prompt.of(asked), *texts), "random", kind="ranking", overlap=overlap)


def in_order(seen: Assignment, order: dict[str, int] = ORDER) -> list[int]:
    return [order[seen.group.completions[slot].text] for slot in seen.shown]


def answered(ledger: Ledger, guideline: str, rater: str = "ann", overlap: int = 1) -> Judgement:
    ledger.add_rater(rater, "human")
    ledger.ask([question(*TEXTS, overlap=overlap)])
    return ledger.answer_many(rater, guideline, lambda seen: (in_order(seen), 9.0), kind="ranking")[0]


def best_first(ledger: Ledger, judged: Judgement) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for rank, completion_id in zip(judged.ranks, judged.completion_ids, strict=True):
        groups.setdefault(rank, []).append(ledger.completion(completion_id).text)
    return [sorted(groups[rank]) for rank in sorted(groups)]


# Ranks and their comparisons


@given(st.integers(3, 9).flatmap(lambda k: st.lists(st.integers(1, k), min_size=k, max_size=k)))
def test_comparisons_are_all_that_a_ranking_says_and_give_it_back(ranks: list[int]) -> None:
    k = len(ranks)
    canonical = rankings.by_slot(ranks, range(k))
    said = rankings.compare(canonical)
    assert len(said) == k * (k - 1) // 2 == len({frozenset(pair[:2]) for pair in said})
    for high, low, strength in said:
        assert (ranks[high] < ranks[low], ranks[high] == ranks[low]) == (strength == 1, strength == 0)
    assert rankings.ranks_of(random.sample(said, len(said)), k) == canonical
    assert Counter(canonical)[1] >= 1 and max(canonical) <= k


@given(ranks_of_four, st.permutations(range(4)))
def test_displayed_places_and_slots_are_one_anothers_inverse(ranks: list[int], shown: list[int]) -> None:
    slots = rankings.by_slot(ranks, shown)
    again = rankings.as_displayed(slots, shown)
    assert rankings.by_slot(again, shown) == slots
    assert [again[i] < again[j] for i in range(4) for j in range(4)] == [
        ranks[i] < ranks[j] for i in range(4) for j in range(4)
    ]


@pytest.mark.parametrize(
    "said",
    [
        [(0, 1, 1), (1, 2, 1), (2, 0, 1)],  # a circle
        [(0, 1, 1), (1, 2, 1)],  # one is missing
        [(0, 1, 1), (1, 2, 1), (0, 2, 2)],  # a strength that nobody was asked for
        [(0, 1, 0), (1, 2, 0), (0, 2, 1)],  # ties that do not carry over
        [(0, 1, 1), (1, 2, 1), (0, 7, 1)],
    ],
)
def test_what_is_no_ranking_is_not_read_as_one(said: list[tuple[int, int, int]]) -> None:
    assert rankings.ranks_of(said, 3) == ()


def test_the_same_order_of_texts_is_the_same_row_whatever_stood_where() -> None:
    """A thousand random presentations of rankings of 3 to 9 answers."""
    rng = random.Random(0)
    for n in range(1000):
        k = rng.randrange(3, 10)
        group = Group.of(Prompt.of("hello"), *(f"answer {i}" for i in range(k)))
        order = {c.text: rng.randint(1, k) for c in group.completions}
        rows: list[object] = []
        for seed in (2 * n, 2 * n + 1):
            seen = Assignment("a", "i", "ann", group, queue.sides(seed, k), "g")
            judged = judging.to_judgement(
                Answer(seen, Rater("1", "ann", "human"), in_order(seen, order), 1.0)
            )
            rows.append(
                [
                    (row["slot_hi"], row["slot_lo"], row["strength"])
                    for row in judging._preference_rows(judged)
                ]
            )
            for slot, completion in enumerate(group.completions):
                better = sum(other < order[completion.text] for other in order.values())
                assert judged.ranks[slot] == 1 + better
        assert rows[0] == rows[1]


def test_words_for_people() -> None:
    assert rankings.in_words((4, 2, 1, 2)) == "C > B = D > A"
    assert rankings.in_words((1, 1, 1)) == "A = B = C"


# In the ledger


def test_a_ranking_is_asked_leased_answered_and_verified(ledger: Ledger, guideline: str) -> None:
    judged = answered(ledger, guideline)
    assert best_first(ledger, judged) == [["best"], ["fair", "good"], ["bad"]]
    assert (judged.strength, len(judged.shown), judged.seconds) == (0, 4, 9.0)
    assert ledger.judgements() == [judged]
    with ledger.reading() as connection:
        rows = connection.execute(select(schema.preference)).all()
    assert len(rows) == 6 and sorted(row.strength for row in rows) == [0, 1, 1, 1, 1, 1]
    assert [row.tie for row in rows if row.strength == 0] == [True]
    report = ledger.verify()
    assert report.problems == () and report.counts["items_open"] == 0


def test_every_side_gives_the_same_row(ledger: Ledger, guideline: str) -> None:
    ledger.ask([question(*TEXTS, overlap=30)])
    shown = set()
    for n in range(30):
        ledger.add_rater(f"r{n}", "simulated")
        seen = ledger.lease(f"r{n}", guideline, seed=n, kind="ranking")
        assert seen is not None
        shown.add(seen.shown)
        ledger.submit(seen.id, in_order(seen), seconds=1.0)
    assert len(shown) > 10, "sides are drawn anew"
    assert len({judged.ranks for judged in ledger.judgements()}) == 1
    assert ledger.verify().ok


def test_the_same_answers_in_another_order_are_the_same_question(ledger: Ledger) -> None:
    again = question(*reversed(TEXTS))
    texts = {c.text: c for c in question(*TEXTS).group.completions}
    again = Question(Group(again.group.prompt, tuple(texts[t] for t in reversed(TEXTS))), "again", "ranking")
    first, second = ledger.ask([question(*TEXTS)]), ledger.ask([again])
    assert first == second and ledger.counts()["items"] == 1


def test_who_asks_for_pairs_gets_no_ranking(ledger: Ledger, guideline: str, pairs) -> None:
    ledger.add_rater("ann", "human")
    ledger.ask([question(*TEXTS), *pairs(1)])
    pair = ledger.lease("ann", guideline)
    assert pair is not None and len(pair.shown) == 2
    assert ledger.lease("ann", guideline) is None
    ranking = ledger.lease("ann", guideline, kind="ranking")
    assert ranking is not None and sorted(ranking.shown) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([1, 2, 3], r"ranks \[1, 2, 3\] do not order 4 answers"),
        ([1, 2, 3, 5], "from 1 .best. to 4"),
        ([0, 1, 2, 3], "do not order"),
        ([1, 2, 3, True], "do not order"),
        ([1, 2, 3, 2.5], "do not order"),
        (2, "a ranking of 4 answers: give their ranks, not a strength"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(
    ledger: Ledger, guideline: str, said: Sequence[int], why: str
) -> None:
    ledger.add_rater("ann", "human")
    ledger.ask([question(*TEXTS)])
    seen = ledger.lease("ann", guideline, kind="ranking")
    assert seen is not None
    with pytest.raises(rankings.WrongAnswerError, match=why):
        ledger.submit(seen.id, said, seconds=1.0)
    assert ledger.judgements() == []


def test_ranks_do_not_answer_a_pair(ledger: Ledger, guideline: str, pairs) -> None:
    ledger.add_rater("ann", "human")
    ledger.ask(pairs(1))
    seen = ledger.lease("ann", guideline)
    assert seen is not None
    with pytest.raises(rankings.WrongAnswerError, match=r"strength \[1, 2\] is not a whole number"):
        ledger.submit(seen.id, [1, 2], seconds=1.0)


def test_groups_that_cannot_be_ranked_are_refused(ledger: Ledger) -> None:
    for texts in (("a", "b"), tuple("abcdefghij"), ("a", "b", "a")):
        with pytest.raises(
            LedgerError, match=f"with {len(texts)} completions; .*ranking 3 to 9 of different"
        ):
            ledger.ask([question(*texts)])
    ledger.ask([question(*"abcdefghi"), question(*"abc")])
    assert ledger.counts()["items"] == 2


def test_a_change_is_a_revision_and_a_repeated_call_is_harmless(ledger: Ledger, guideline: str) -> None:
    ledger.add_rater("ann", "human")
    ledger.ask([question(*TEXTS)])
    seen = ledger.lease("ann", guideline, kind="ranking")
    assert seen is not None
    first = ledger.submit(seen.id, [1, 2, 3, 4], seconds=1.0, idempotency_key="k")
    assert ledger.submit(seen.id, [1, 2, 3, 4], seconds=1.0, idempotency_key="k") == first
    with pytest.raises(LedgerError, match=r"key 'k' belongs to judgement .* of ranks .* needs a new key"):
        ledger.submit(seen.id, [2, 1, 3, 4], seconds=1.0, idempotency_key="k")
    second = ledger.revise(first.id, in_order(seen), seconds=2.0)
    assert best_first(ledger, second) == [["best"], ["fair", "good"], ["bad"]]
    assert ledger.judgements() == [second]
    assert ledger.judgements(include_superseded=True) == [first, second]
    assert ledger.verify().ok


def test_a_skipped_ranking_goes_to_somebody_else(ledger: Ledger, guideline: str) -> None:
    ledger.ask([question(*TEXTS)])
    for name in ("ann", "bob"):
        ledger.add_rater(name, "human")
    seen = ledger.lease("ann", guideline, kind="ranking")
    assert seen is not None
    ledger.skip(seen.id, "cannot-judge")
    assert ledger.lease("ann", guideline, kind="ranking") is None
    assert ledger.lease("bob", guideline, kind="ranking") is not None


# Where it goes


def test_a_release_gives_its_pairs_and_each_answer_counts_as_in_a_pair(
    ledger: Ledger, guideline: str
) -> None:
    judged = answered(ledger, guideline)
    ledger.release("first")
    rows = ledger.preferences("first")
    assert {(row.chosen, row.rejected) for row in rows if not row.tie} == {
        ("best", "good"), ("best", "fair"), ("best", "bad"), ("good", "bad"), ("fair", "bad"),
    }  # fmt: skip
    assert [{row.chosen, row.rejected} for row in rows if row.tie] == [{"good", "fair"}]
    assert {row.margin for row in rows} == {0.0} and {row.provenance for row in rows} == {(judged.id,)}
    for text_ in TEXTS:
        assert sum(row.weight for row in rows if text_ in (row.chosen, row.rejected)) == pytest.approx(1.0)
    assert ledger.release_judgements("first") == [judged]


def test_comparisons_know_what_stood_first_and_are_the_same_for_everybody(
    ledger: Ledger, guideline: str
) -> None:
    answered(ledger, guideline, overlap=2)
    other = answered(ledger, guideline, "bob", overlap=2)
    mine, theirs = (rankings.comparisons(judged) for judged in ledger.judgements())
    assert [pair.item_id for pair in mine] == [pair.item_id for pair in theirs]
    assert [pair.strength for pair in mine] == [pair.strength for pair in theirs]
    assert len({pair.item_id for pair in mine}) == 6
    for pair in theirs:
        left = pair.completion_ids[pair.shown[0]]
        right = pair.completion_ids[pair.shown[1]]
        at = [other.shown.index(other.completion_ids.index(c)) for c in (left, right)]
        assert at[0] < at[1]
        better = [other.ranks[other.completion_ids.index(c)] for c in pair.completion_ids]
        assert pair.strength == (better[0] < better[1]) - (better[0] > better[1])


# Trust


def _tamper(path: Path, *statements: str) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        for name in ("no_update", "no_delete", "no_replace"):
            connection.execute(text(f"DROP TRIGGER preference_{name}"))
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


ONE = "(SELECT slot_hi FROM preference WHERE strength = 1 LIMIT 1)"


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE preference SET strength = 2 WHERE strength = 1", "does not match its audit entry"),
        ("UPDATE preference SET tie = 0, strength = 1 WHERE tie", "does not match its audit entry"),
        (f"DELETE FROM preference WHERE slot_hi = {ONE}", "preferences are on record for 4 answers"),
        (
            "INSERT INTO preference SELECT judgement_id, 7, 8, 1, 0 FROM preference LIMIT 1",
            "7 preferences are",
        ),
    ],
)
def test_verify_finds_a_changed_ranking(
    path: Path, ledger: Ledger, guideline: str, statement: str, found: str
) -> None:
    answered(ledger, guideline)
    ledger.close()
    _tamper(path, statement)
    with Ledger.open(path) as again:
        assert found in "\n".join(again.verify().problems)


def test_no_comparison_is_stored_twice(ledger: Ledger, guideline: str, path: Path) -> None:
    judged = answered(ledger, guideline)
    row = "SELECT judgement_id, slot_lo, slot_hi, strength, tie FROM preference LIMIT 1"
    with pytest.raises(LedgerError, match="append-only"), ledger.writing() as connection:
        connection.execute(text(f"INSERT OR REPLACE INTO preference {row}"))
    assert ledger.judgements() == [judged]


# Migration


def _old_ledger(where: str, today: Path) -> Judgement:
    """A ledger as the version before rankings left it, with a question, an answer and a release.

    They are made in a ledger of `today` and copied, because today's code knows today's tables.
    """
    with Ledger.open(today) as ledger:
        ledger.add_rater("ann", "human")
        ledger.ask([Question(Group.of(Prompt.of("old"), "x", "y"), "random")])
        (judged,) = ledger.answer_many("ann", ledger.add_guideline("Choose."), lambda _: (2, 3.0), seed=1)
        ledger.release("old")
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    engine, old = create_engine(database._url(where)), MetaData()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
    old.reflect(engine)
    source = create_engine(f"sqlite:///{today}")
    with engine.begin() as writing, source.connect() as reading:
        for table in schema.metadata.sorted_tables:
            if table.name in old.tables:
                columns = [table.c[column.name] for column in old.tables[table.name].columns]
                if rows := [dict(row) for row in reading.execute(select(*columns)).mappings()]:
                    writing.execute(insert(old.tables[table.name]), rows)
    source.dispose()
    engine.dispose()
    return judged


def test_an_old_ledger_with_answers_takes_rankings(where: str, tmp_path: Path) -> None:
    before = _old_ledger(where, tmp_path / "today.sqlite")
    with Ledger.open(where) as ledger:
        assert ledger.judgements() == [before] and ledger.verify().problems == ()
        assert [row.margin for row in ledger.preferences("old")] == [2.0]
        ledger.ask([question(*TEXTS)])
        guideline = ledger.add_guideline("Choose.")
        new = ledger.answer_many("ann", guideline, lambda seen: (in_order(seen), 1.0), kind="ranking")
        assert len(new) == 1 and ledger.judgements() == [before, *new]
        assert ledger.verify().problems == ()
        for table, column in (("preference", "strength"), ("assignment", "purpose")):
            with pytest.raises(LedgerError, match="append-only"), ledger.writing() as connection:
                connection.execute(text(f"UPDATE {table} SET {column} = {column}"))
        with pytest.raises(LedgerError), ledger.writing() as connection:
            connection.execute(text("UPDATE item SET kind = 'poem'"))
        with ledger.reading() as connection:
            assert connection.execute(select(func.count()).select_from(schema.item)).scalar() == 2
