"""Questions with a known answer: a rater's accuracy on them, and the sequential test that needs about ten."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from accord.feedback.estimates import Estimate, share_estimate, unknown

GOOD, GUESSING = 0.85, 0.5  # the two accuracies that the test tells apart
ERROR = 0.05  # how often it may take one for the other
LIMIT = math.log((1 - ERROR) / ERROR)
ENOUGH = 0.7  # an accuracy below which answers are of little use
FEWEST_TO_EXCLUDE = 10  # nobody is sent away on fewer gold questions, whatever the test says


@dataclass(frozen=True)
class Gold:
    """See `gold_test`. `decided_after` is the number of questions that the verdict took."""

    accuracy: Estimate
    verdict: Literal["good", "guessing", "undecided"]
    decided_after: int | None
    log_ratio: float  # of the likelihoods, good over guessing, when it was decided (or now)
    p_too_low: float | None  # posterior probability of an accuracy below 0.7, from a flat prior
    may_exclude: bool  # the verdict is "guessing" and rests on at least 10 questions


def gold_test(correct: Sequence[bool], *, confidence: float = 0.95) -> Gold:
    """Wald's sequential probability ratio test (1945) on answers to gold questions, in order of time.

    Accuracy 0.85 against 0.5, each error at most about 5 %: the verdict falls when the log of the likelihood
    ratio first leaves ±log 19, after 9.8 questions on average for a good rater and 7.9 for a guessing one.
    A tie on a gold question is no correct answer.
    """
    if not correct:
        return Gold(unknown("answered no gold question"), "undecided", None, 0.0, None, False)
    total, decided = 0.0, None
    for i, right in enumerate(correct, 1):
        total += math.log(GOOD / GUESSING if right else (1 - GOOD) / (1 - GUESSING))
        if abs(total) >= LIMIT:
            decided = i
            break
    verdict: Literal["good", "guessing", "undecided"] = "undecided"
    if decided is not None:
        verdict = "good" if total > 0 else "guessing"
    hits, n = sum(correct), len(correct)
    return Gold(
        accuracy=share_estimate(
            hits, n, "share of gold questions answered correctly; 0.5 is guessing", confidence=confidence
        ),
        verdict=verdict,
        decided_after=decided,
        log_ratio=total,
        p_too_low=float(stats.beta.cdf(ENOUGH, 1 + hits, 1 + n - hits)),
        may_exclude=verdict == "guessing" and n >= FEWEST_TO_EXCLUDE,
    )
