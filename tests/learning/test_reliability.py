"""Raters with planted faults are found, and the labels that remain are better than a majority vote's.

600 pairs, each judged by 3 of 12 raters of whom five are faulty, in ten different worlds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from accord.feedback.copying import Copying, copy_weights, find_copying
from accord.feedback.raters import RaterQuality, rater_quality
from accord.feedback.reliability import Reliability, fit_reliability
from accord.feedback.votes import Vote, votes_of
from planted import Planted, simulate

SEEDS = range(10)


@dataclass(frozen=True)
class World:
    planted: Planted
    votes: list[Vote]
    copying: list[Copying]
    quality: dict[str, RaterQuality]
    fitted: Reliability

    def flags(self, rater: str) -> set[str]:
        return {flag.kind for flag in self.quality[rater].flags}


def world(seed: int) -> World:
    planted = simulate(seed)
    votes = votes_of(planted.judgements)
    copying = find_copying(votes)
    quality = {q.rater: q for q in rater_quality(votes, lengths=planted.lengths, n_boot=0)}
    fitted = fit_reliability(votes, lengths=planted.lengths, weights=copy_weights(votes, copying))
    return World(planted, votes, copying, quality, fitted)


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    return [world(seed) for seed in SEEDS]


def accuracy(world: World, score: dict[str, float]) -> float:
    """Share of pairs on which the score names the better answer; a score of 0 is half right."""
    truth = world.planted.quality
    return float(np.mean([0.5 if score[p] == 0 else (score[p] > 0) == (q > 0) for p, q in truth.items()]))


def test_labels_beat_the_majority(worlds: list[World]) -> None:
    gains = []
    for w in worlds:
        majority, total = (dict.fromkeys(w.planted.quality, 0.0) for _ in range(2))
        for vote in w.votes:
            majority[vote.pair] += vote.winner
            total[vote.pair] += vote.strength
        model = accuracy(w, {pair.pair: pair.preference for pair in w.fitted.pairs})
        gains.append(model - max(accuracy(w, majority), accuracy(w, total)))
    assert sum(gain > 0 for gain in gains) >= 9
    assert np.mean(gains) > 0.05


def test_skill_is_that_of_the_rater(worlds: list[World]) -> None:
    for w in worlds:
        assert w.fitted.converged
        true = [w.planted.skill[r.rater] for r in w.fitted.raters]
        assert stats.spearmanr([r.skill.value for r in w.fitted.raters], true)[0] >= 0.8
    inside = [
        r.skill.low <= w.planted.skill[r.rater] <= r.skill.high for w in worlds for r in w.fitted.raters
    ]
    assert np.mean(inside) >= 0.8  # of intervals that should hold 95 in 100


def test_probabilities_are_calibrated(worlds: list[World]) -> None:
    said = np.array([pair.p_better for w in worlds for pair in w.fitted.pairs])
    true = np.array([w.planted.quality[pair.pair] > 0 for w in worlds for pair in w.fitted.pairs])
    for low in np.arange(0, 1, 0.2):
        these = (said >= low) & (said < low + 0.2)
        assert true[these].mean() == pytest.approx(said[these].mean(), abs=0.06)


def test_each_fault_is_found_by_the_model(worlds: list[World]) -> None:
    for w in worlds:
        found = {r.rater: r for r in w.fitted.raters}
        assert found["careless"].skill.low < 0.55
        assert found["inverted"].discrimination.high < 0
        assert found["left"].side_bias.low > 1
        assert found["long"].length_bias.low > 0.2
        for name, rater in found.items():
            if name.startswith("good"):
                assert rater.discrimination.low > 0
                assert abs(rater.side_bias.value) < 1


def test_each_fault_is_flagged_and_nobody_else(worlds: list[World]) -> None:
    assert all("side" in w.flags("left") for w in worlds)
    assert all("agreement" in w.flags("inverted") for w in worlds)
    assert all("speed" in w.flags("careless") for w in worlds)
    assert sum("length" in w.flags("long") for w in worlds) >= 8
    good = [w.flags(name) for w in worlds for name in w.quality if name.startswith("good")]
    assert sum(map(bool, good)) <= 1


def test_the_copy_cat_is_found_and_nobody_else(worlds: list[World]) -> None:
    assert [[suspects.raters for suspects in w.copying] for w in worlds] == [[("copy", "good0")]] * len(
        worlds
    )


def test_no_copying_is_found_where_there_is_none() -> None:
    for seed in range(20, 30):
        planted = simulate(seed, faults=("careless", "left", "long", "inverted"))
        assert find_copying(votes_of(planted.judgements)) == []
