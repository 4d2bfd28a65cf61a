"""Preference losses, group credit and best-of-n against the float64 oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.objectives import GROUP_CREDIT
from accord.objectives.best_of_n import best_of_n_mean
from accord.objectives.bradley_terry import bradley_terry_loss
from accord.objectives.rao_kupper import rao_kupper_logps, rao_kupper_loss
from reference import oracles

FAST = settings(max_examples=60, deadline=None)
SEED = st.integers(0, 2**32 - 1)


def vector(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pairs(seed: int, count: int, labels: list[float]) -> tuple[list[float], ...]:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 2, count), rng.normal(0, 2, count)
    b[0] = a[0]  # equal rewards belong in every batch
    return (
        list(a),
        list(b),
        [float(x) for x in rng.choice(labels, count)],
        list(rng.uniform(0, 3, count)),
        list(rng.uniform(0, 2, count)),
    )


@given(seed=SEED, count=st.integers(1, 12), smoothing=st.floats(0, 0.49), center=st.floats(0, 0.5))
@FAST
def test_bradley_terry(seed: int, count: int, smoothing: float, center: float) -> None:
    a, b, labels, margins, weights = pairs(seed, count, [0, 0.5, 1, 0.2, 0.9])
    got = bradley_terry_loss(
        vector(a),
        vector(b),
        label_P=vector(labels),
        margin_P=vector(margins),
        weight_P=vector(weights),
        label_smoothing=smoothing,
        center_coef=center,
    )
    want = oracles.bradley_terry(a, b, labels, margins, weights, smoothing, center)
    assert float(got.loss) == pytest.approx(want, rel=1e-9)
    bare = oracles.bradley_terry(a, b, labels, margins, weights, smoothing, 0.0)
    expected = {"loss/reward_avg": (bare, sum(weights)), **oracles.pair_metrics(a, b, labels, weights)}
    assert got.metrics.keys() == expected.keys()
    for name, (total, norm) in expected.items():
        got_total, got_norm = (float(x) for x in got.metrics[name])
        assert (got_total, got_norm) == pytest.approx((total, norm), rel=1e-9, abs=1e-12), name


@given(seed=SEED, count=st.integers(1, 12), nu=st.floats(0.05, 3), smoothing=st.floats(0, 0.49))
@FAST
def test_rao_kupper(seed: int, count: int, nu: float, smoothing: float) -> None:
    a, b, labels, margins, weights = pairs(seed, count, [0, 0.5, 1])
    got = rao_kupper_loss(
        vector(a),
        vector(b),
        label_P=vector(labels),
        threshold=nu,
        margin_P=vector(margins),
        weight_P=vector(weights),
        label_smoothing=smoothing,
        center_coef=0.1,
    )
    want = oracles.rao_kupper(a, b, labels, margins, weights, nu, smoothing, 0.1)
    assert float(got.loss) == pytest.approx(want, rel=1e-9)


@given(seed=SEED, nu=st.floats(0.01, 4))
@FAST
def test_rao_kupper_probabilities(seed: int, nu: float) -> None:
    a, b, *_ = pairs(seed, 5, [1])
    got = rao_kupper_logps(vector(a) - vector(b), nu)
    for outcome in range(3):
        want = [oracles.rao_kupper_probs(x, y, nu)[outcome] for x, y in zip(a, b, strict=True)]
        torch.testing.assert_close(got[outcome].exp(), vector(want), rtol=1e-9, atol=1e-12)


@given(seed=SEED, sizes=st.lists(st.integers(2, 5), min_size=1, max_size=4))
@FAST
def test_group_credit(seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    groups = [int(g) for g in rng.permutation([7 * g for g, size in enumerate(sizes) for _ in range(size)])]
    scores = list(rng.normal(size=len(groups)))
    for kind, credit in GROUP_CREDIT.items():
        want = vector(oracles.group_advantages(scores, groups, kind))
        got_C = credit(vector(scores), torch.tensor(groups))
        torch.testing.assert_close(got_C, want, rtol=1e-9, atol=1e-9)


@given(seed=SEED, total=st.integers(1, 8), data=st.data())
@FAST
def test_best_of_n_mean(seed: int, total: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, total))
    rng = np.random.default_rng(seed)
    proxy = list(rng.integers(0, 5, total).astype(float))  # with ties
    gold = list(rng.normal(size=total))
    got = best_of_n_mean(vector(proxy), vector(gold), n)
    assert float(got) == pytest.approx(oracles.best_of_n_mean(proxy, gold, n), rel=1e-9, abs=1e-12)
