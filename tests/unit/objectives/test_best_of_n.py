"""Best-of-n: exact against fractions, integrals and full enumeration."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from scipy.integrate import quad
from torch.testing import assert_close

from accord.objectives.best_of_n import best_of_n_kl, best_of_n_mean, best_of_n_weights


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_kl_is_exact_when_scores_cannot_tie(n: int) -> None:
    """The quantile of the best of n has density n u^(n-1); its KL to the uniform is an integral."""
    integral, _ = quad(lambda u: n * u ** (n - 1) * math.log(n * u ** (n - 1)) if u > 0 else 0.0, 0, 1)
    assert best_of_n_kl(n) == pytest.approx(integral, abs=1e-7)


def test_kl_is_only_a_bound_when_scores_tie() -> None:
    """Two possible answers, equally likely: the true KL can never pass log 2."""
    for n in (2, 4, 16):
        best = 1 - 0.5**n
        truth = best * math.log(best / 0.5) + (1 - best) * math.log((1 - best) / 0.5)
        assert truth < best_of_n_kl(n)


def test_kl_of_a_published_case() -> None:
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(12_500) == pytest.approx(8.4, abs=0.05)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        best_of_n_kl(0)


@pytest.mark.parametrize(("total", "n"), [(1, 1), (9, 1), (9, 4), (9, 9), (60, 25)])
def test_weights_are_the_binomial_ratios(total: int, n: int) -> None:
    want = [float(Fraction(math.comb(i - 1, n - 1), math.comb(total, n))) for i in range(1, total + 1)]
    assert_close(best_of_n_weights(total, n), torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=0)


def test_weights_stay_stable_for_large_pools() -> None:
    weights = best_of_n_weights(50_000, 12_500)  # the binomials here have ten thousand digits
    assert float(weights.sum()) == pytest.approx(1, abs=1e-9)
    assert (weights >= 0).all() and float(weights[-1]) == 12_500 / 50_000


def test_the_estimator_is_unbiased() -> None:
    """Every pool of N samples from a small policy, weighted by its probability."""
    policy, proxy, gold = [0.5, 0.3, 0.2], [0.0, 1.0, 1.0], [2.0, -1.0, 5.0]
    for total, n in ((4, 1), (4, 2), (4, 4)):
        expected = 0.0
        for pool in itertools.product(range(3), repeat=total):
            chance = math.prod(policy[i] for i in pool)
            scores = torch.tensor([[proxy[i], gold[i]] for i in pool], dtype=torch.float64).T
            expected += chance * float(best_of_n_mean(scores[0], scores[1], n))
        lose = policy[0] ** n  # all n are the answer with proxy 0; otherwise one of the two with proxy 1
        truth = lose * 2.0 + (1 - lose) * (0.3 * -1.0 + 0.2 * 5.0) / 0.5
        assert expected == pytest.approx(truth, abs=1e-12)


def test_edges_and_order() -> None:
    proxy, gold = torch.tensor([0.3, 0.1, 0.1, 0.9]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert float(best_of_n_mean(proxy, gold, 1)) == pytest.approx(2.5)
    assert float(best_of_n_mean(proxy, gold, 4)) == pytest.approx(4.0)
    swapped = torch.tensor([3, 2, 1, 0])
    assert_close(best_of_n_mean(proxy, gold, 2), best_of_n_mean(proxy[swapped], gold[swapped], 2))
    with pytest.raises(ValueError, match="n = 5 of 4"):
        best_of_n_mean(proxy, gold, 5)
    with pytest.raises(ValueError, match="two vectors alike"):
        best_of_n_mean(proxy, gold[:2], 1)
