"""What is said of the raters' answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from accord.feedback.agreement import Rating, agreement
from accord.records import Judgement
from accord.stages.ask import summarise


def judgement(item: int, rater: int, strength: int) -> Judgement:
    return Judgement(
        id=f"{item}/{rater}",
        item_id=f"item {item}",
        prompt_id=f"prompt {item // 2}",
        rater=f"rater {rater}",
        rater_kind="simulated",
        completion_ids=("a", "b"),
        strength=strength,
        shown=(0, 1),
        guideline="1",
        seconds=5.0,
    )


def test_raw_agreement_and_its_interval_are_about_who_won() -> None:
    rng = np.random.default_rng(0)
    judged = []
    for item, rater in itertools.product(range(60), range(3)):
        better = 1 if item % 2 else -1
        judged.append(
            judgement(item, rater, int(rng.integers(1, 4)) * (better if rng.random() < 0.8 else -better))
        )
    found = summarise(judged)["agreement"]
    winners = [Rating(j.item_id, j.rater, "a" if j.strength > 0 else "b") for j in judged]
    expected = agreement(winners, level="nominal")
    assert found["raw"] == pytest.approx(expected.raw)
    assert (found["raw_low"], found["raw_high"]) == (expected.raw_low, expected.raw_high)
    assert found["raw_low"] < found["raw"] < found["raw_high"]
