"""Questions with a known answer: a rater's accuracy on them, and the sequential test that needs about ten."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from accord.feedback.estimates import Estimate, share_estimate, unknown
from accord.feedback.sprt import Verdict, sequential_test
from accord.ledger.known import Known, is_right
from accord.ledger.rankings import ranks_said
from accord.records import Judgement

ENOUGH = 0.7  # an accuracy below which answers are of little use
FEWEST_TO_EXCLUDE = 10  # nobody is sent away on fewer gold questions, whatever the test says


@dataclass(frozen=True)
class Gold:
    """See `gold_test`. `decided_after` is the number of questions that the verdict took."""

    accuracy: Estimate
    verdict: Verdict
    decided_after: int | None
    log_ratio: float  # of the likelihoods, good over guessing, when it was decided (or now)
    p_too_low: float | None  # posterior probability of an accuracy below 0.7, from a flat prior
    may_exclude: bool  # the verdict is "guessing" and rests on at least 10 questions


def gold_answers(judgements: Iterable[Judgement], known: Mapping[str, Known]) -> dict[str, list[bool]]:
    """Whether each rater's answers to gold questions are right (`known.is_right`), in the order given.

    A pair and a ranking count once each, blind repeats and adjudications not; of revisions the last counts.
    `known` is by item. Whoever judged anything is there, maybe with no answer.
    """
    last: dict[str, dict[str, bool]] = {}
    for judged in judgements:
        if judged.purpose == "adjudicate":
            continue
        own = last.setdefault(judged.rater, {})
        if judged.purpose != "repeat" and judged.item_id in known:
            own[judged.item_id] = is_right(ranks_said(judged), known[judged.item_id])
    return {rater: list(own.values()) for rater, own in last.items()}


def gold_test(correct: Sequence[bool], *, confidence: float = 0.95) -> Gold:
    """Accuracy with its interval, and Wald's test (`sequential_test`) on answers in order of time.

    A tie on a gold question is no correct answer.
    """
    if not correct:
        return Gold(unknown("answered no gold question"), "undecided", None, 0.0, None, False)
    found = sequential_test(correct)
    hits, n = sum(correct), len(correct)
    return Gold(
        accuracy=share_estimate(
            hits, n, "share of gold questions answered correctly; 0.5 is guessing", confidence=confidence
        ),
        verdict=found.verdict,
        decided_after=found.decided_after,
        log_ratio=found.log_ratio,
        p_too_low=float(stats.beta.cdf(ENOUGH, 1 + hits, 1 + n - hits)),
        may_exclude=found.verdict == "guessing" and n >= FEWEST_TO_EXCLUDE,
    )
