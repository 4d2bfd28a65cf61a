"""Losses of reward models against the papers, in float64 NumPy, one scalar at a time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from accord.objectives.ordinal import ordinal_logps, ordinal_loss, ordinal_rating_loss
from accord.objectives.plackett_luce import plackett_luce_loss
from accord.objectives.process import process_loss, solution_scores, until_first_error
from accord.objectives.regression import observed, regression_loss
from accord.objectives.safe import cost_loss, lagrangian_advantages, update_multiplier
from accord.records import Terms
from reference.oracles import pair_metrics, sigmoid

CLOSE = {"rel": 1e-9, "abs": 1e-9}
FAST = settings(max_examples=50, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)


def f64(values) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float64)


def metric(terms: Terms, name: str) -> tuple[float, float]:
    total, count = terms.metrics[name]
    return float(total), float(count)


# --- ordinal -----------------------------------------------------------------------------------------------


def graded_probability(delta: float, strength: int, thresholds: list[float]) -> float:
    """Agresti 1992: P(strength <= j) = σ(edge_j - delta), as the difference of two of them."""
    m = len(thresholds)

    def at_most(j: int) -> float:
        if j >= m:
            return 1.0
        if j < -m:
            return 0.0
        edge = thresholds[j] if j >= 0 else -thresholds[-j - 1]
        return sigmoid(edge - delta)

    return at_most(strength) - at_most(strength - 1)


@given(seed=SEEDS, m=st.integers(1, 4), center=st.floats(0, 0.5))
@FAST
def test_ordinal_loss(seed: int, m: int, center: float) -> None:
    rng = np.random.default_rng(seed)
    a, b, weights = rng.normal(size=9), rng.normal(size=9), rng.uniform(0, 2, size=9)
    thresholds = list(np.cumsum(rng.uniform(0.1, 1.5, size=m)))
    strengths = rng.integers(-m, m + 1, size=9)
    got = ordinal_loss(
        f64(a),
        f64(b),
        strength_P=torch.tensor(strengths),
        thresholds_M=f64(thresholds),
        weight_P=f64(weights),
        center_coef=center,
    )
    nll = [
        -w * math.log(graded_probability(x - y, int(s), thresholds))
        for x, y, s, w in zip(a, b, strengths, weights, strict=True)
    ]
    centring = sum(w * center * (x + y) ** 2 for x, y, w in zip(a, b, weights, strict=True))
    assert float(got.loss) == pytest.approx(sum(nll) + centring, **CLOSE)
    assert metric(got, "loss/reward_avg") == pytest.approx((sum(nll), weights.sum()), **CLOSE)
    labels = [0.5 + 0.5 * np.sign(s) for s in strengths]
    for name, value in pair_metrics(a, b, labels, weights).items():
        assert metric(got, name) == pytest.approx(value, **CLOSE)


@given(seed=SEEDS, m=st.integers(1, 5))
@FAST
def test_ordinal_rating_loss(seed: int, m: int) -> None:
    """McCullagh 1980, with thresholds on both sides of zero."""
    rng = np.random.default_rng(seed)
    scores, weights = rng.normal(size=8), rng.uniform(0, 2, size=8)
    thresholds = rng.normal() + np.cumsum(rng.uniform(0.1, 1.5, size=m))
    ratings = rng.integers(1, m + 2, size=8)
    got = ordinal_rating_loss(
        f64(scores), rating_C=torch.tensor(ratings), thresholds_M=f64(thresholds), weight_C=f64(weights)
    )
    edges = [-math.inf, *thresholds, math.inf]
    nll = right = off = 0.0
    for score, rating, weight in zip(scores, ratings, weights, strict=True):
        below = [0.0 if e == -math.inf else 1.0 if e == math.inf else sigmoid(e - score) for e in edges]
        probabilities = np.diff(below)
        nll -= weight * math.log(probabilities[rating - 1])
        miss = abs(int(np.argmax(probabilities)) + 1 - rating)
        right += weight * (miss == 0)
        off += weight * miss
    assert float(got.loss) == pytest.approx(nll, **CLOSE)
    assert metric(got, "loss/reward_avg") == pytest.approx((nll, weights.sum()), **CLOSE)
    assert metric(got, "rewards/accuracies") == pytest.approx((right, weights.sum()), **CLOSE)
    assert metric(got, "rewards/rating_error") == pytest.approx((off, weights.sum()), **CLOSE)
    assert metric(got, "rewards/mean") == pytest.approx(((weights * scores).sum(), weights.sum()), **CLOSE)


def test_far_grades_keep_their_probability() -> None:
    """At δ = 200 a tie has probability 2 sinh(t) e^{-δ}: 1 - (1 - tiny) would give 0."""
    logps_PG = ordinal_logps(f64([200.0]), f64([-0.5, 0.5]))
    assert float(logps_PG[0, 1]) == pytest.approx(math.log(2 * math.sinh(0.5)) - 200, rel=1e-12)
    assert float(logps_PG[0, 0]) == pytest.approx(-200.5, rel=1e-12)


# --- Plackett-Luce -----------------------------------------------------------------------------------------


def ranking_nll(scores: list[float], ranks: list[int], ties: str) -> float:
    """Draw by draw: every place in turn, each member of it one after the other."""
    total = 0.0
    for place in sorted(set(ranks)):
        tied = [s for s, r in zip(scores, ranks, strict=True) if r == place]
        rest = [s for s, r in zip(scores, ranks, strict=True) if r >= place]
        for j, score in enumerate(tied):
            mass = sum(math.exp(s) for s in rest)
            if ties == "efron":
                mass -= j / len(tied) * sum(math.exp(s) for s in tied)
            total -= math.log(math.exp(score) / mass)
    return total


@given(seed=SEEDS, ties=st.sampled_from(["efron", "breslow"]), center=st.floats(0, 0.5))
@FAST
def test_plackett_luce(seed: int, ties: str, center: float) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 4, size=14)
    scores, ranks, weight_of = rng.normal(size=14), rng.integers(1, 5, size=14), rng.uniform(0, 2, size=4)
    got = plackett_luce_loss(
        f64(scores),
        rank_C=torch.tensor(ranks),
        group_C=torch.tensor(groups),
        weight_C=f64(weight_of[groups]),
        ties=ties,
        center_coef=center,
    )
    loss = nll = right = margin = decided = count = 0.0
    for g in set(groups):
        inside = [i for i in range(14) if groups[i] == g]
        own = ranking_nll([scores[i] for i in inside], [ranks[i] for i in inside], ties)
        nll += weight_of[g] * own
        loss += weight_of[g] * (own + center * sum(scores[i] for i in inside) ** 2)
        count += weight_of[g]
        for i, j in itertools.permutations(inside, 2):
            if ranks[i] < ranks[j]:
                right += weight_of[g] * (scores[i] > scores[j])
                margin += weight_of[g] * (scores[i] - scores[j])
                decided += weight_of[g]
    assert float(got.loss) == pytest.approx(loss, **CLOSE)
    assert metric(got, "loss/reward_avg") == pytest.approx((nll, count), **CLOSE)
    assert metric(got, "rewards/accuracies") == pytest.approx((right, decided), **CLOSE)
    assert metric(got, "rewards/margins") == pytest.approx((margin, decided), **CLOSE)
    weights = weight_of[groups]
    assert metric(got, "rewards/mean") == pytest.approx(((weights * scores).sum(), weights.sum()), **CLOSE)


# --- regression and process --------------------------------------------------------------------------------


@given(seed=SEEDS, weighted=st.booleans())
@FAST
def test_regression(seed: int, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    scores, ratings = rng.normal(size=(6, 3)), rng.uniform(0, 4, size=(6, 3))
    ratings[rng.uniform(size=(6, 3)) < 0.3] = np.nan
    weights = rng.uniform(0, 2, size=6) if weighted else np.ones(6)
    weight_C = f64(weights) if weighted else None
    names = ["helpful", "correct", "brief"]
    got = regression_loss(f64(scores), rating_CA=f64(ratings), weight_C=weight_C, attributes=names)
    error, count, mean = [0.0] * 3, [0.0] * 3, 0.0
    for c, a in itertools.product(range(6), range(3)):
        if math.isnan(ratings[c, a]):
            continue
        error[a] += weights[c] * (scores[c, a] - ratings[c, a]) ** 2
        count[a] += weights[c]
        mean += weights[c] * scores[c, a]
    assert float(got.loss) == pytest.approx(sum(error), **CLOSE)
    assert metric(got, "loss/reward_avg") == pytest.approx((sum(error), sum(count)), **CLOSE)
    assert metric(got, "rewards/mean") == pytest.approx((mean, sum(count)), **CLOSE)
    assert float(observed(f64(ratings), weight_C)) == pytest.approx(sum(count), **CLOSE)
    for a, name in enumerate(names):
        assert metric(got, f"rewards/error/{name}") == pytest.approx((error[a], count[a]), **CLOSE)


@given(seed=SEEDS)
@FAST
def test_process(seed: int) -> None:
    """Garbage stands wherever there is no step; labels are 0, ½, 1 or soft."""
    rng = np.random.default_rng(seed)
    shape = (4, 7)
    step = rng.uniform(size=shape) < 0.5
    step[:, 2] = True
    logits = np.where(step, rng.normal(size=shape), np.nan)
    labels = np.where(step, rng.choice([0.0, 0.5, 1.0, 0.3], size=shape), np.nan)
    weights = rng.uniform(0, 2, size=4)
    step_CT = torch.tensor(step)
    got = process_loss(f64(logits), label_CT=f64(labels), step_CT=step_CT, weight_C=f64(weights))
    loss = count = right = decided = 0.0
    until, scores = [], {"product": [], "min": [], "last": []}
    for c in range(4):
        kept, failed, probabilities = [], False, []
        for t in range(7):
            kept.append(bool(step[c, t]) and not failed)
            if not step[c, t]:
                continue
            p, y = sigmoid(logits[c, t]), labels[c, t]
            probabilities.append(p)
            loss -= weights[c] * (y * math.log(p) + (1 - y) * math.log(1 - p))
            count += weights[c]
            if y != 0.5:
                right += weights[c] * ((p > 0.5) == (y > 0.5))
                decided += weights[c]
            failed = failed or y < 0.5
        until.append(kept)
        scores["product"].append(math.log(math.prod(probabilities)))
        scores["min"].append(math.log(min(probabilities)))
        scores["last"].append(math.log(probabilities[-1]))
    assert float(got.loss) == pytest.approx(loss, **CLOSE)
    assert metric(got, "loss/reward_avg") == pytest.approx((loss, count), **CLOSE)
    assert metric(got, "rewards/accuracies") == pytest.approx((right, decided), **CLOSE)
    assert until_first_error(f64(labels), step_CT).tolist() == until
    for how, want in scores.items():
        assert solution_scores(f64(logits), step_CT, how).tolist() == pytest.approx(want, **CLOSE)


# --- Safe RLHF ---------------------------------------------------------------------------------------------


@given(seed=SEEDS)
@FAST
def test_cost_loss(seed: int) -> None:
    """Eq. 6 as printed: w the more harmful answer, s = +1 for an unsafe answer and -1 for a safe one."""
    rng = np.random.default_rng(seed)
    a, b, weights = rng.normal(size=7), rng.normal(size=7), rng.uniform(0, 2, size=7)
    worse_is_a = rng.uniform(size=7) < 0.5
    unsafe_a, unsafe_b = rng.uniform(size=7) < 0.5, rng.uniform(size=7) < 0.5
    got = cost_loss(
        f64(a),
        f64(b),
        label_P=f64(worse_is_a.astype(float)),
        unsafe_A_P=torch.tensor(unsafe_a),
        unsafe_B_P=torch.tensor(unsafe_b),
        weight_P=f64(weights),
    )
    loss = compared = right = 0.0
    for p in range(7):
        s_a, s_b = (1 if unsafe_a[p] else -1), (1 if unsafe_b[p] else -1)
        c_w, s_w, c_l, s_l = (a[p], s_a, b[p], s_b) if worse_is_a[p] else (b[p], s_b, a[p], s_a)
        first = -math.log(sigmoid(c_w - c_l))
        compared += weights[p] * first
        loss += weights[p] * (first - math.log(sigmoid(s_w * c_w)) - math.log(sigmoid(s_l * c_l)))
        right += weights[p] * (int(s_w * c_w > 0) + int(s_l * c_l > 0))
    assert float(got.loss) == pytest.approx(loss, **CLOSE)
    assert metric(got, "loss/reward_avg") == pytest.approx((compared, weights.sum()), **CLOSE)
    assert metric(got, "costs/safety_accuracies") == pytest.approx((right, 2 * weights.sum()), **CLOSE)


@given(
    multiplier=st.floats(0.01, 20), cost=st.floats(-3, 3), limit=st.floats(-2, 2), rate=st.floats(0.001, 0.5)
)
@FAST
def test_lagrangian(multiplier: float, cost: float, limit: float, rate: float) -> None:
    reward, harm = [[0.3, -1.0], [2.0, 0.1]], [[1.0, 0.2], [-0.4, 5.0]]
    want = [
        [(r - multiplier * c) / (1 + multiplier) for r, c in zip(*rows, strict=True)]
        for rows in zip(reward, harm, strict=True)
    ]
    got_CT = lagrangian_advantages(f64(reward), f64(harm), multiplier)
    np.testing.assert_allclose(got_CT.numpy(), want, rtol=1e-9)
    got = update_multiplier(multiplier, cost, limit=limit, learning_rate=rate, maximum=5.0)
    assert got == pytest.approx(min(5.0, multiplier * math.exp(rate * multiplier * (cost - limit))), rel=1e-9)
