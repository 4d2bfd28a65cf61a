"""Rankings about which raters disagree, by Kendall's tau-b; somebody else settles them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from accord.feedback.labels import aggregate_preferences
from accord.ledger import Ledger, adjudication, exchange, judging, projects, queue, rankings
from accord.ledger.assigned import Assignment, Rater
from accord.ledger.database import utc_now
from accord.ledger.projects import Project
from accord.records import Group, Prompt, Question


def project_of(
    ledger: Ledger, said: Sequence[Sequence[Sequence[int]]], below: float | None = None
) -> Project:
    """A project in which ranking i was given the orders said[i], by slot, each by another rater."""
    form = {} if below is None else {"disputes": {"below": below}}
    asked = [
        Question(
            Group.of(Prompt.of(f"rank {i}"), *(f"answer {i}.{k}" for k in range(len(orders[0])))),
            "random",
            "ranking",
            len(orders),
        )
        for i, orders in enumerate(said)
    ]
    order = {queue.item_id_of(question.group): i for i, question in enumerate(asked)}
    with ledger.writing() as connection:
        now = utc_now()
        made = projects.add_project(connection, "p", "Order.", overlap=1, form=form, now=now)
        projects.add_questions(connection, made, asked, now)
        found = projects.find_project(connection, made)
        assert found is not None
        for k in range(max(map(len, said))):
            who = rater(connection, f"r{k}")
            for seen in queue.lease(
                connection, who, found.guideline_id, now, limit=len(said), seconds=9.0, seed=k, project=made
            ):
                ranks = said[order[seen.item_id]][k]
                displayed = rankings.as_displayed(ranks, seen.shown)
                judging.submit(connection, seen.id, displayed, seconds=1, idempotency_key=None, now=now)
    return found


def rater(connection: object, name: str) -> Rater:
    queue.add_rater(connection, name, "human", utc_now())  # type: ignore[arg-type]
    return queue.find_rater(connection, name)  # type: ignore[arg-type]


def settle(ledger: Ledger, project: Project, name: str, limit: int = 9) -> list[Assignment]:
    with ledger.writing() as connection:
        who = rater(connection, name)
        return adjudication.lease(connection, who, project, utc_now(), limit=limit, seconds=900.0, seed=1)


def items(ledger: Ledger, project: Project) -> list[str]:
    with ledger.reading() as connection:
        return projects.item_ids(connection, project.id)


def reference(orders: Sequence[Sequence[int]]) -> float:
    """SciPy's tau-b; where one ties everything 0, where both do 1."""
    found = []
    for one, other in combinations(orders, 2):
        flat = [len(set(ranks)) == 1 for ranks in (one, other)]
        found.append(float(all(flat)) if any(flat) else stats.kendalltau(one, other, variant="b").statistic)
    return float(np.mean(found))


def test_the_measure_is_the_mean_of_scipys_tau_b(ledger: Ledger) -> None:
    draw = random.Random(2)
    said = []
    for i in range(25):
        k, raters = draw.randint(3, 9 if i % 2 else 4), draw.randint(2, 4)
        said.append([[draw.randint(1, draw.choice((1, k, k))) for _ in range(k)] for _ in range(raters)])
    said[0] = [[1, 1, 1], [1, 1, 1]]
    said[1] = [[1, 1, 1], [1, 2, 3]]
    project = project_of(ledger, said)
    with ledger.reading() as connection:
        found = adjudication.alike(connection, project.id)
        disputed = set(adjudication.disputed(connection, project))
    expected = {id_: reference(orders) for id_, orders in zip(items(ledger, project), said, strict=True)}
    assert found == pytest.approx(expected, abs=1e-9)
    assert list(found.values()) == sorted(found.values())
    assert disputed == {id_ for id_, tau in expected.items() if tau < projects.DISPUTED_BELOW}
    assert 3 < len(disputed) < 25 and project.disputed_below == 0.3


def test_a_ranking_is_disputed_when_it_has_all_its_answers_and_by_what_the_project_sets(
    ledger: Ledger,
) -> None:
    swapped, opposed = [[1, 2, 3], [1, 3, 2]], [[1, 2, 3], [3, 2, 1]]  # tau 1/3 and -1
    project = project_of(ledger, [swapped, opposed, [[1, 2, 3], [1, 2, 3]]], below=0.34)
    first, second, _ = items(ledger, project)
    with ledger.reading() as connection:
        assert adjudication.disputed(connection, project) == [first, second]
    lower = project_of(ledger, [[[4, 3, 2, 1], [1, 2, 3, 4]], [[1, 2, 4, 3], [1, 2, 3, 4]]], below=-1)
    with ledger.reading() as connection:
        assert adjudication.disputed(connection, lower) == []
    with ledger.writing() as connection:
        projects.add_questions(
            connection, project.id, [Question(ledger.group(first), "more", "ranking", overlap=3)], utc_now()
        )
        assert adjudication.disputed(connection, project) == [second], "its third answer is not there yet"


def test_the_adjudicators_order_is_the_label_and_the_votes_stay_on_record(ledger: Ledger) -> None:
    project = project_of(ledger, [[[1, 2, 3], [3, 2, 1]], [[1, 2, 3], [1, 2, 3]]])
    assert settle(ledger, project, "r0") == [], "she judged it"
    (seen,) = settle(ledger, project, "eve")
    assert settle(ledger, project, "zoe") == [], "one settles it"
    said = ledger.submit(seen.id, rankings.as_displayed((2, 1, 2), seen.shown), seconds=1)
    assert said.purpose == "adjudicate" and said.ranks == (2, 1, 2)
    assert len(ledger.release("r").judgement_ids) == 5
    rows = ledger.preferences("r")
    settled = [row for row in rows if row.provenance == (said.id,)]
    assert len(rows) == 3 + 2 * 3 and len(settled) == 3
    assert {(row.chosen, row.rejected) for row in settled if not row.tie} == {
        ("answer 0.1", "answer 0.0"), ("answer 0.1", "answer 0.2"),
    }  # fmt: skip
    with ledger.reading() as connection:
        told = list(exchange.ranking_rows(connection, project.id))
        assert len(list(exchange.preference_rows(connection, project.id))) == 9
        purposes = [row["purpose"] for row in exchange.judgement_rows(connection, project.id)]
    assert [row["ranking"] for row in told] == [[2, 1, 2], [1, 2, 3], [1, 2, 3]]
    assert sorted(purposes) == ["adjudicate", "judge", "judge", "judge", "judge"]
    kept, note = aggregate_preferences(rows, ledger.release_judgements("r"), "majority")
    assert kept == rows and note == ""
    assert len(ledger.judgements()) == 4 and ledger.verify().problems == ()
