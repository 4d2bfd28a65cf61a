"""Can the feedback be trusted? The numbers of the manager's page, each with its interval and what it means.

The statistics themselves stand in accord.feedback, which takes a second to import and so waits for the first
call. What was computed is kept until the project has another answer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from accord.ledger import Ledger, answers, exchange, projects, store
from accord.ledger.database import utc_now
from accord.records import Judgement

if TYPE_CHECKING:
    from accord.feedback.estimates import Estimate

RESAMPLES = 500
FEW = 20  # judgements below which nothing is said about a person
HURRIED_SECONDS = 3.0

Figure = dict[str, Any]

_kept: dict[tuple[int, str], tuple[tuple[int, str], dict[str, Any]]] = {}
_computing = Lock()  # one at a time: raters come before statistics


@dataclass(frozen=True)
class Facts:
    """What the numbers of one project are computed from."""

    judgements: Sequence[Judgement]
    times: Mapping[str, str]  # when each was given
    both_bad: frozenset[str]  # judgement ids
    lengths: Mapping[str, int]  # characters of each completion
    gold: Mapping[str, int]  # known answers by item
    guidelines: Mapping[str, int]  # number by id
    skipped: int


def quality_of(ledger: Ledger, project_id: str) -> dict[str, Any]:
    """The numbers as JSON. LedgerError when a judgement does not lead back to what was shown."""
    with ledger.reading() as connection:
        facts = read_facts(connection, project_id)
    state = (len(facts.judgements), max(facts.times.values(), default=""))
    key = (id(ledger), project_id)
    with _computing:
        if key not in _kept or _kept[key][0] != state:
            _kept[key] = (state, figures_of(facts))
        return _kept[key][1]


def read_facts(connection: Connection, project_id: str) -> Facts:
    judgements = exchange.project_judgements(connection, project_id)
    ids = [judged.id for judged in judgements]
    said = answers.read_answers(connection, ids)
    completions = store.read_completions(connection, (c for j in judgements for c in j.completion_ids))
    versions = projects.guidelines(connection, project_id)
    return Facts(
        judgements=judgements,
        times=exchange.submission_times(connection, ids),
        both_bad=frozenset(i for i, parts in said.items() if any(p.key == "both_bad" for p in parts)),
        lengths={id_: len(completion.text) for id_, completion in completions.items()},
        gold=projects.gold_answers(connection, project_id),
        guidelines={version.id: version.n for version in reversed(versions)},
        skipped=projects.counts(connection, project_id)["skipped"],
    )


def figures_of(facts: Facts) -> dict[str, Any]:
    by_rater: dict[str, list[Judgement]] = defaultdict(list)
    by_guideline: dict[int, list[Judgement]] = defaultdict(list)
    for judged in facts.judgements:
        by_rater[judged.rater].append(judged)
        by_guideline[facts.guidelines.get(judged.guideline, 0)].append(judged)
    summary = [*_agreement(facts.judgements), *_habits(facts.judgements, facts), *_refusals(facts)]
    strengths = Counter(judged.strength for judged in facts.judgements)
    days = Counter(time[:10] for time in facts.times.values())
    raters = [_rater(name, given, facts) for name, given in sorted(by_rater.items())]
    return {
        "summary": summary if facts.judgements else [],
        "raters": raters,
        "guidelines": [
            {"n": n, "answered": len(given), "figures": _agreement(given)}
            for n, given in sorted(by_guideline.items())
        ],
        "strengths": [{"strength": s, "count": strengths[s]} for s in range(-3, 4)],
        "days": [{"day": day, "answered": n} for day, n in sorted(days.items())],
        "computed_at": utc_now(),
        "advice": _advice(summary, raters, len(facts.judgements)),
    }


def _figure(key: str, label: str, unit: str, found: Estimate) -> Figure:
    unknown = found.value is None
    return {
        "key": key,
        "label": label,
        "unit": unit,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "meaning": "" if unknown else found.meaning,
        "undefined_because": found.meaning if unknown else "",
    }


def _sign(strength: int) -> int:
    return (strength > 0) - (strength < 0)


# Everybody together


def _agreement(judgements: Sequence[Judgement]) -> list[Figure]:
    from accord.feedback.agreement import agreement, ceiling
    from accord.feedback.estimates import Estimate
    from accord.feedback.ratings import Rating

    graded = [Rating(j.item_id, j.rater, float(j.strength)) for j in judgements]
    signs = [Rating(j.item_id, j.rater, str(_sign(j.strength))) for j in judgements]
    raw = agreement(signs, level="nominal", n_boot=RESAMPLES)
    alpha = agreement(graded, level="ordinal", n_boot=RESAMPLES)
    best = ceiling(judgements, n_boot=RESAMPLES)
    why = "no question has two answers yet, so there is nothing to compare"
    return [
        _figure(
            "raw",
            "Raw agreement",
            "share",
            Estimate(
                raw.raw,
                raw.raw_low,
                raw.raw_high,
                raw.n_pairable,
                why
                if raw.raw is None
                else "how often two people say the same of a question: first, second, equal",
            ),
        ),
        _figure(
            "alpha",
            "Krippendorff's alpha",
            "alpha",
            Estimate(
                alpha.alpha,
                alpha.alpha_low,
                alpha.alpha_high,
                alpha.n_pairable,
                alpha.alpha_undefined_because
                or "agreement on the seven grades beyond chance: 0 is chance, 1 is perfect",
            ),
        ),
        _figure(
            "ceiling",
            "Ceiling for a reward model",
            "share",
            Estimate(
                best.value,
                best.low,
                best.high,
                best.n,
                best.undefined_because
                or "the best accuracy that any reward model can be expected to reach against one new rater",
            ),
        ),
    ]


def _habits(judgements: Sequence[Judgement], facts: Facts) -> list[Figure]:
    import numpy as np

    from accord.feedback.estimates import median_estimate, share_estimate

    decided = [j for j in judgements if j.strength != 0]
    left = sum((j.strength > 0) == (j.shown[0] == 0) for j in decided)
    uneven = [(j, facts.lengths[j.completion_ids[0]] - facts.lengths[j.completion_ids[1]]) for j in decided]
    longer = [(j.strength > 0) == (difference > 0) for j, difference in uneven if difference != 0]
    return [
        _figure(
            "left",
            "Left chosen",
            "share",
            share_estimate(left, len(decided), "sides are random, so this should be near one half"),
        ),
        _figure(
            "longer",
            "Longer chosen",
            "share",
            share_estimate(
                sum(longer), len(longer), "how often the longer answer won; far from one half may be a habit"
            ),
        ),
        _figure(
            "seconds",
            "Time for a question",
            "seconds",
            median_estimate(
                np.array([j.seconds for j in judgements]), "the median of the time spent reading and deciding"
            ),
        ),
    ]


def _refusals(facts: Facts) -> list[Figure]:
    from accord.feedback.estimates import share_estimate

    n = len(facts.judgements)
    ties = sum(j.strength == 0 for j in facts.judgements)
    bad = sum(j.id in facts.both_bad for j in facts.judgements)
    parts = (
        ("ties", "Called equal", ties, n, "how often neither answer was better; many say little to a model"),
        ("both_bad", "Both bad", bad, n, "how often both answers were bad: the policy needs demonstrations"),
        ("skipped", "Skipped", facts.skipped, n + facts.skipped, "how often a question was given back"),
    )
    return [
        _figure(key, label, "share", share_estimate(hits, of, why)) for key, label, hits, of, why in parts
    ]


# One by one


def _rater(name: str, given: Sequence[Judgement], facts: Facts) -> dict[str, Any]:
    from accord.feedback.estimates import share_estimate

    others: dict[str, int] = defaultdict(int)
    for judged in facts.judgements:
        if judged.rater != name:
            others[judged.item_id] += _sign(judged.strength)
    compared = [j for j in given if j.strength != 0 and others.get(j.item_id, 0) != 0]
    with_rest = sum(_sign(j.strength) == _sign(others[j.item_id]) for j in compared)
    known = [j for j in given if j.item_id in facts.gold]
    right = sum(_sign(j.strength) == _sign(facts.gold[j.item_id]) for j in known)
    figures = [
        _figure(
            "rest",
            "Agrees with the rest",
            "share",
            share_estimate(with_rest, len(compared), "how often the majority of the others chose the same"),
        ),
        _figure(
            "gold",
            "Gold right",
            "share",
            share_estimate(right, len(known), "how often the known answer was given"),
        ),
        *_habits(given, facts),
    ]
    return {
        "pseudonym": name,
        "answered": len(given),
        "figures": figures,
        "warnings": _warnings({figure["key"]: figure for figure in figures}),
    }


def _warnings(figures: Mapping[str, Figure]) -> list[str]:
    """Reasons to talk to somebody. They need an interval that excludes the harmless value."""
    found = []
    rest, gold, left, seconds = (figures[key] for key in ("rest", "gold", "left", "seconds"))
    if rest["n"] >= FEW and rest["low"] is not None and rest["low"] <= 0.5:
        found.append(
            "agrees with the rest no more than chance" if rest["high"] > 0.5 else "disagrees with the rest"
        )
    if gold["n"] >= 10 and gold["high"] is not None and gold["high"] < 0.7:
        found.append("misses known answers")
    if left["n"] >= FEW and not left["low"] <= 0.5 <= left["high"]:
        found.append("prefers the left side" if left["low"] > 0.5 else "prefers the right side")
    if seconds["n"] >= FEW and seconds["value"] < HURRIED_SECONDS:
        found.append("very quick")
    return found


def _advice(summary: Sequence[Figure], raters: Sequence[Mapping[str, Any]], n: int) -> list[str]:
    if n == 0:
        return ["Nothing has been answered yet: invite raters and bring in questions."]
    figures = {figure["key"]: figure for figure in summary}
    alpha = figures["alpha"]
    said = []
    if alpha["value"] is None:
        said.append("Agreement is not known yet. Ask two or three people about some of the questions.")
    elif alpha["low"] is None or alpha["n"] < 2 * FEW:
        said.append("Few questions have two answers so far, so agreement is known only roughly.")
    elif alpha["high"] < 0.4:
        said.append("Raters often disagree. Talk about examples with them, and sharpen the guideline.")
    elif alpha["low"] >= 0.4:
        said.append("Raters agree clearly more than by chance; a reward model can learn from this.")
    else:
        said.append("Raters agree somewhat; more answers will tell how much.")
    if flagged := [rater["pseudonym"] for rater in raters if rater["warnings"]]:
        who = ", ".join(flagged[:5]) + (" and others" if len(flagged) > 5 else "")
        said.append(f"Something stands out about {who}: see the table of raters.")
    return said
