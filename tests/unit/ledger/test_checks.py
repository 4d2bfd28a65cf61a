"""Gold questions and blind repeats in a rater's queue, at their rates and as no votes; adjudication."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text, update

from accord.errors import LedgerError
from accord.feedback.sprt import is_decided, sequential_test
from accord.ledger import Ledger, adjudication, checks, exchange, judging, projects, queue
from accord.ledger.assigned import Assignment, Rater, Wanted
from accord.ledger.database import utc_now
from accord.ledger.projects import REPEAT_AFTER, Project
from accord.ledger.schema import assignment, item
from accord.records import Completion, Group, Prompt, Question, Sampling
from accord.stages import people

NEVER: Callable[[Sequence[bool]], bool] = lambda correct: False  # noqa: E731


def questions(n: int, overlap: int = 1, name: str = "q") -> list[Question]:
    made = []
    for i in range(n):
        prompt = Prompt.of(f"{name} {i}")
        drawn = (Completion(prompt.id, f"{name} {i}.{k}", sampling=Sampling(), index=k) for k in range(2))
        made.append(Question(Group(prompt, tuple(drawn)), "random", overlap=overlap))
    return made


def project_of(
    ledger: Ledger, n: int, *, gold: int = 0, overlap: int = 1, rates: dict[str, float] | None = None
) -> Project:
    """Slot 0 is the known answer of the gold questions, which are asked after the others."""
    with ledger.writing() as connection:
        now, form = utc_now(), {"checks": rates or {}}
        made = projects.add_project(connection, "p", "Choose.", overlap=overlap, form=form, now=now)
        known = questions(gold, overlap, "gold")
        projects.add_questions(connection, made, [*questions(n, overlap), *known], now)
        ids = {queue.item_id_of(question.group): 2 for question in known}
        projects.set_gold(connection, ids, now)
        found = projects.find_project(connection, made)
    assert found is not None
    return found


def rater(ledger: Ledger, name: str = "ann") -> Rater:
    ledger.add_rater(name, "human")
    with ledger.reading() as connection:
        return queue.find_rater(connection, name)


def lease(
    ledger: Ledger, who: Rater, project: Project, seed: int | None = 0, **more: object
) -> list[Assignment]:
    given: dict[str, object] = {"limit": 1, "seconds": 900.0, "seed": seed, "decided": is_decided}
    with ledger.writing() as connection:
        return checks.lease(connection, who, project, utc_now(), **(given | more))  # type: ignore[arg-type]


def answer_all(
    ledger: Ledger,
    who: Rater,
    project: Project,
    say: Callable[[Assignment], int],
    *,
    limit: int = 999,
    seed: int = 0,
    decided: Callable[[Sequence[bool]], bool] = is_decided,
) -> list[tuple[Assignment, int]]:
    """What this rater was asked one by one, with how many were left then. `say` is the strength by slot."""
    asked: list[tuple[Assignment, int]] = []
    with ledger.writing() as connection:
        now = utc_now()
        while len(asked) < limit:
            found = checks.lease(
                connection, who, project, now, limit=1, seconds=900.0, seed=seed, decided=decided
            )
            if not found:
                break
            strength = towards_slot_0(found[0], say(found[0]))
            now = queue.later(now, 1)
            judging.submit(connection, found[0].id, strength, seconds=1, idempotency_key=None, now=now)
            left = projects.progress(connection, project.id, who.id, project.rates).left
            asked.append((found[0], left))
    return asked


def towards_slot_0(seen: Assignment, strength: int = 2) -> int:
    return strength if seen.shown[0] == 0 else -strength


def test_gold_questions_come_at_their_rate_and_take_no_place(ledger: Ledger) -> None:
    project, who = project_of(ledger, 300, gold=60, rates={"gold": 0.2}), rater(ledger)
    seen = [each for each, _ in answer_all(ledger, who, project, lambda _: 1, decided=NEVER)]
    purposes = Counter(each.purpose for each in seen)
    assert purposes["judge"] == 300
    assert 30 <= purposes["gold"] <= 60 and purposes["repeat"] == 0
    assert 20 <= sum(each.purpose == "gold" for each in seen[:200]) <= 60  # five standard deviations from 40
    assert len(ledger.judgements()) == 300, "no answer to a gold question is a vote"
    with ledger.reading() as connection:
        assert len(exchange.project_judgements(connection, project.id)) == 300
        rows = connection.execute(select(item.c.state).where(item.c.id.in_(_gold(ledger, project)))).scalars()
        assert set(rows) == {"open"}, "nobody's check closes a question"
    assert people.look(ledger, "ledger", "p", _gold(ledger, project), "all").given == 0, "the loop waits on"
    assert len(ledger.release("r").judgement_ids) == 300
    assert ledger.verify().problems == ()


def _gold(ledger: Ledger, project: Project) -> list[str]:
    with ledger.reading() as connection:
        return list(projects.gold_answers(connection, project.id))


@pytest.mark.parametrize(("skill", "verdict"), [(0.5, "guessing"), (0.95, "good")])
def test_about_ten_gold_questions_decide_in_the_order_they_are_served(
    ledger: Ledger, skill: float, verdict: str
) -> None:
    """Six raters of each kind; after the verdict hardly any gold question comes."""
    project = project_of(ledger, 60, gold=40, overlap=6, rates={"gold": 0.5})
    draw, taken, right_verdicts, late = random.Random(4), [], 0, 0
    for n in range(6):
        who, correct = rater(ledger, f"r{n}"), list[bool]()

        def say(seen: Assignment, correct: list[bool] = correct) -> int:
            nonlocal late
            good = draw.random() < skill
            if seen.purpose == "gold":
                late += is_decided(correct)
                correct.append(good)
            return 1 if good else -1

        answer_all(ledger, who, project, say, limit=60, seed=n)
        with ledger.reading() as connection:
            mine = {"rater": who.id, "project": project.id}
            assert checks.gold_answers(connection, mine) == correct
        told = sequential_test(correct)
        right_verdicts += told.verdict == verdict
        taken.append(told.decided_after or len(correct))
    assert right_verdicts >= 5
    assert 4 <= sum(taken) / len(taken) <= 14
    assert late <= 18, "a tenth of the rate: 12 of 240 questions, and not 120"
    assert ledger.verify().problems == ()


def test_a_project_without_rates_asks_gold_questions_like_all_others(ledger: Ledger) -> None:
    project, who = project_of(ledger, 3, gold=2), rater(ledger)
    found = lease(ledger, who, project, limit=9)
    assert [each.purpose for each in found] == ["judge"] * 5


def test_repeats_come_once_a_while_later_with_the_sides_swapped(ledger: Ledger) -> None:
    project, who = project_of(ledger, 70, overlap=2, rates={"repeat": 0.4}), rater(ledger)
    order = [each for each, _ in answer_all(ledger, who, project, lambda _: 2)]
    first = {each.item_id: i for i, each in enumerate(order) if each.purpose == "judge"}
    again = {each.item_id: i for i, each in enumerate(order) if each.purpose == "repeat"}
    assert len(first) == 70 and len(again) >= 15
    assert len(order) == len(first) + len(again), "each comes again once at most"
    for item_id, i in again.items():
        assert order[i].shown == order[first[item_id]].shown[::-1]
        assert i - first[item_id] >= REPEAT_AFTER
    assert len(ledger.judgements()) == 70
    with ledger.reading() as connection:
        every = judging.read_judgements(connection, purposes=judging.EVERYTHING)
        mine = projects.my_judgements(connection, project.id, who.id)
    assert len(every) == len(order) == len(mine), "to the rater they are answers like any other"
    said = {(j.item_id, j.purpose): j.strength for j in every}
    assert all(said[item_id, "repeat"] == said[item_id, "judge"] == 2 for item_id in again)
    others = lease(ledger, rater(ledger, "ben"), project, limit=99)
    assert len(others) == 70, "no repeat takes the place of another rater"
    assert ledger.verify().problems == ()


def test_a_guideline_that_changed_is_no_reason_to_be_inconsistent(ledger: Ledger) -> None:
    project, who = project_of(ledger, 80, rates={"repeat": 0.5}), rater(ledger)
    with ledger.writing() as connection:
        for seen in queue.lease(
            connection,
            who,
            project.guideline_id,
            utc_now(),
            limit=40,
            seconds=9.0,
            seed=1,
            project=project.id,
        ):
            judging.submit(connection, seen.id, 1, seconds=1, idempotency_key=None, now=utc_now())
        projects.publish_guideline(connection, project.id, "Choose otherwise.", utc_now())
        changed = projects.find_project(connection, project.id)
    assert changed is not None
    assert {each.purpose for each in lease(ledger, who, changed, limit=15)} == {"judge"}
    assert {each.purpose for each in lease(ledger, who, project, limit=15)} == {"judge", "repeat"}


def test_the_same_seed_draws_the_same_checks(ledger: Ledger) -> None:
    project = project_of(ledger, 30, gold=10, overlap=9, rates={"gold": 0.3})

    def purposes(name: str, seed: int | None) -> list[str]:
        with ledger.writing() as connection:
            who = queue.find_rater(connection, name)
            found = checks.lease(
                connection, who, project, utc_now(), limit=20, seconds=9.0, seed=seed, decided=is_decided
            )
            connection.execute(update(assignment).values(state="expired"))
        return [each.item_id + each.purpose for each in found]

    rater(ledger)
    drawn = purposes("ann", 5)
    assert len(set(drawn)) == 20
    connection_free = Counter(each[32:] for each in drawn)
    assert connection_free["gold"] > 0
    assert purposes("ann", 6) != drawn
    assert purposes("ann", None) != purposes("ann", None)


def test_how_many_are_left_does_not_tell_a_check(ledger: Ledger) -> None:
    """One by one it would: the number stays the same after a check."""
    project, who = project_of(ledger, 43, gold=9, rates={"gold": 0.3}), rater(ledger)
    lefts = [left for _, left in answer_all(ledger, who, project, lambda _: 1)]
    assert set(lefts) == {0, 5, 10, 15, 20, 25, 30, 35, 40, 45}
    assert sorted(lefts, reverse=True) == lefts
    assert len(lefts) > 43


def test_a_purpose_can_be_neither_changed_nor_hidden(ledger: Ledger) -> None:
    project, who = project_of(ledger, 40, gold=9, rates={"gold": 0.5}), rater(ledger)
    while (seen := lease(ledger, who, project)[0]).purpose == "judge":
        ledger.submit(seen.id, 1, seconds=1)
    ledger.submit(seen.id, 3, seconds=1)
    change = update(assignment).where(assignment.c.id == seen.id).values(purpose="judge")
    with pytest.raises(LedgerError, match="assignment is append-only"), ledger.writing() as connection:
        connection.execute(change)
    with ledger.writing() as connection:  # as somebody with a database shell
        on = "" if connection.dialect.name == "sqlite" else " ON assignment"
        connection.execute(text(f"DROP TRIGGER assignment_no_update{on}"))
        connection.execute(change)
    assert any("does not match its audit entry" in problem for problem in ledger.verify().problems)


def test_a_late_check_counts_unless_it_was_leased_again(ledger: Ledger) -> None:
    project, who = project_of(ledger, 1, gold=1), rater(ledger)
    (gold_id,) = _gold(ledger, project)
    with ledger.writing() as connection:
        late, again = (
            queue.hold(
                connection, who, project.guideline_id, [Wanted(gold_id, "gold")], utc_now(), seconds=s, seed=1
            )[0]
            for s in (-1.0, 900.0)
            if queue.expire(connection, utc_now()) is None
        )
    with pytest.raises(LedgerError, match="lease ran out"):
        ledger.submit(late.id, 1, seconds=1)
    assert ledger.submit(again.id, 1, seconds=1).purpose == "gold"


ACTIONS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(("lease", "submit", "skip", "expire", "late"))),
    min_size=5,
    max_size=60,
)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS, seed=st.integers(0, 99))
def test_no_sequence_of_events_exceeds_the_overlap(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[int, str]], seed: int
) -> None:
    """Three raters, gold questions, repeats (after two answers), skips, leases that run out, late answers."""
    path = tmp_path_factory.mktemp("mixed") / "ledger.sqlite"
    with pytest.MonkeyPatch.context() as patch, Ledger.open(path) as ledger:
        patch.setattr(checks, "_JUST_ANSWERED", checks._JUST_ANSWERED.limit(1).offset(1))
        project = project_of(ledger, 4, gold=2, overlap=2, rates={"gold": 0.3, "repeat": 0.4})
        raters = [rater(ledger, f"r{i}") for i in range(3)]
        held: list[list[str]] = [[], [], []]
        lost: list[list[str]] = [[], [], []]
        for turn, (i, action) in enumerate(actions):
            if action == "lease":
                found = lease(ledger, raters[i], project, seed=seed + turn, limit=2, decided=NEVER)
                held[i] += [each.id for each in found]
            elif action == "expire" and held[i]:
                with ledger.writing() as connection:
                    ids = assignment.c.id.in_(held[i])
                    gone = update(assignment).where(ids, assignment.c.state == "leased")
                    connection.execute(gone.values(lease_expires_at="2000"))
                lost[i] += held[i]
                held[i] = []
            elif action == "late" and lost[i]:
                try:
                    ledger.submit(lost[i].pop(), 1, seconds=1)
                except LedgerError as refused:
                    assert "lease ran out" in str(refused)
            elif held[i] and action == "submit":
                ledger.submit(held[i].pop(), 1, seconds=1)
            elif held[i] and action == "skip":
                ledger.skip(held[i].pop(), "other")
            votes = Counter(judged.item_id for judged in ledger.judgements())
            assert max(votes.values(), default=0) <= 2
            assert not set(votes) & set(_gold(ledger, project))
        assert ledger.verify().problems == ()


# Adjudication


def disputed(ledger: Ledger, said: Sequence[Sequence[int]]) -> Project:
    """A project in which item i was given the strengths said[i], by slot, each by another rater."""
    project = project_of(ledger, len(said), overlap=max(map(len, said)))
    order = {queue.item_id_of(q.group): i for i, q in enumerate(questions(len(said)))}
    for k in range(max(map(len, said))):
        for seen in lease(ledger, rater(ledger, f"r{k}"), project, limit=len(said)):
            given = said[order[seen.item_id]]
            if k < len(given):
                ledger.submit(seen.id, given[k] if seen.shown[0] == 0 else -given[k], seconds=1)
    return project


SAID = {  # what was said, and whether somebody must settle it
    (1, -1): True,
    (3, 0): True,
    (0, -3): True,
    (3, -3): True,
    (3, 1): False,
    (2, 0): False,
    (0, 0): False,
    (-1, 0): False,
    (2, -2, None): False,  # the third answer is not there yet
}


def test_what_is_disputed(ledger: Ledger) -> None:
    said = [tuple(s for s in each if s is not None) for each in SAID]
    full = [each if None in key else (*each, each[-1]) for key, each in zip(SAID, said, strict=True)]
    project = disputed(ledger, full)
    with ledger.reading() as connection:
        found = adjudication.disputed(connection, project)
    ids = [queue.item_id_of(question.group) for question in questions(len(SAID))]
    assert [id_ in found for id_ in ids] == list(SAID.values())


def settle(ledger: Ledger, who: Rater, project: Project, limit: int = 9) -> list[Assignment]:
    with ledger.writing() as connection:
        return adjudication.lease(connection, who, project, utc_now(), limit=limit, seconds=900.0, seed=1)


def test_one_adjudicator_settles_each_pair_and_never_her_own(ledger: Ledger) -> None:
    project = disputed(ledger, [(2, -2), (3, -1), (1, 1)])
    assert settle(ledger, rater(ledger, "r0"), project) == [], "she judged them all"
    (mine,) = settle(ledger, rater(ledger, "eve"), project, limit=1)
    (other,) = settle(ledger, rater(ledger, "zoe"), project)
    assert mine.item_id != other.item_id and settle(ledger, rater(ledger, "may"), project) == []
    ledger.skip(mine.id, "other")
    assert settle(ledger, rater(ledger, "eve"), project) == [], "skipped: not hers again"
    ledger.submit(other.id, towards_slot_0(other, -3), seconds=1)
    (again,) = settle(ledger, rater(ledger, "may"), project)
    assert again.item_id == mine.item_id
    ledger.submit(again.id, towards_slot_0(again, 1), seconds=1)
    with ledger.reading() as connection:
        told = adjudication.progress(connection, project, rater(ledger, "may").id)
        assert len(adjudication.settled(connection, project.id)) == 2
    assert (told.answered, told.skipped, told.left) == (1, 0, 0)
    assert len(ledger.judgements()) == 6, "votes stay, and adjudications are none"
    assert ledger.verify().problems == ()


def test_an_adjudicated_answer_is_the_label_and_the_votes_stay_on_record(ledger: Ledger) -> None:
    project = disputed(ledger, [(2, -2), (1, 1)])
    (seen,) = settle(ledger, rater(ledger, "eve"), project)
    said = ledger.submit(seen.id, towards_slot_0(seen, -3), seconds=1)
    release = ledger.release("r")
    assert len(release.judgement_ids) == 5
    rows = ledger.preferences("r")
    assert [row.provenance for row in rows].count((said.id,)) == 1 and len(rows) == 3
    settled = next(row for row in rows if row.provenance == (said.id,))
    assert (settled.chosen, settled.margin) == (ledger.completion(said.completion_ids[1]).text, 3.0)
    with ledger.reading() as connection:
        assert len(list(exchange.preference_rows(connection, project.id))) == 3
        assert Counter(r["purpose"] for r in exchange.judgement_rows(connection, project.id)) == {
            "judge": 4,
            "adjudicate": 1,
        }
