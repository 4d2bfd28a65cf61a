"""Wald's sequential test on gold questions, with nothing but the standard library: the queue asks it too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

GOOD, GUESSING = 0.85, 0.5  # the two accuracies that the test tells apart
ERROR = 0.05  # how often it may take one for the other
LIMIT = math.log((1 - ERROR) / ERROR)

Verdict = Literal["good", "guessing", "undecided"]


@dataclass(frozen=True)
class Sequential:
    """`decided_after` is the number of questions that the verdict took."""

    verdict: Verdict
    decided_after: int | None
    log_ratio: float  # of the likelihoods, good over guessing, when it was decided (or now)


def sequential_test(correct: Sequence[bool]) -> Sequential:
    """Wald's sequential probability ratio test (1945) on answers to gold questions, in order of time.

    Accuracy 0.85 against 0.5, each error at most about 5 %: the verdict falls when the log of the likelihood
    ratio first leaves ±log 19, after 9.8 questions on average for a good rater and 7.9 for a guessing one.
    """
    total = 0.0
    for i, right in enumerate(correct, 1):
        total += math.log(GOOD / GUESSING if right else (1 - GOOD) / (1 - GUESSING))
        if abs(total) >= LIMIT:
            return Sequential("good" if total > 0 else "guessing", i, total)
    return Sequential("undecided", None, total)


def is_decided(correct: Sequence[bool]) -> bool:
    return sequential_test(correct).verdict != "undecided"
