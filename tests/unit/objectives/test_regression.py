"""Squared error on ratings, some of them missing."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from accord.objectives.regression import observed, regression_loss

NAN = math.nan
SCORES_CA = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.0]], dtype=torch.float64)
RATING_CA = torch.tensor([[2.0, NAN], [NAN, NAN], [1.0, 4.0]], dtype=torch.float64)
WEIGHT_C = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)


def test_by_hand() -> None:
    terms = regression_loss(SCORES_CA, rating_CA=RATING_CA, weight_C=WEIGHT_C, attributes=("help", "fact"))
    assert float(terms.loss) == 1 * 1 + 0.5 * 4 + 0.5 * 16
    assert [float(x) for x in terms.metrics["rewards/error/help"]] == [3.0, 1.5]
    assert [float(x) for x in terms.metrics["rewards/error/fact"]] == [8.0, 0.5]
    assert float(observed(RATING_CA, WEIGHT_C)) == 2.0


def test_a_missing_rating_leaves_no_trace_in_the_gradient() -> None:
    scores_CA = SCORES_CA.clone().requires_grad_()
    loss = regression_loss(scores_CA, rating_CA=RATING_CA, weight_C=WEIGHT_C).loss
    (grad_CA,) = torch.autograd.grad(loss, scores_CA)
    want_CA = 2 * WEIGHT_C[:, None] * (SCORES_CA - RATING_CA)
    assert_close(grad_CA, want_CA.nan_to_num(0.0))
    assert bool((grad_CA[RATING_CA.isnan()] == 0).all())


def test_one_attribute_may_be_a_vector() -> None:
    for weight_C in (None, WEIGHT_C):
        flat = regression_loss(SCORES_CA[:, 0], rating_CA=RATING_CA[:, 0], weight_C=weight_C)
        column = regression_loss(SCORES_CA[:, :1], rating_CA=RATING_CA[:, :1], weight_C=weight_C)
        assert_close(flat.loss, column.loss)
        assert float(observed(RATING_CA[:, 0], weight_C)) == float(observed(RATING_CA[:, :1], weight_C))


def test_the_optimum_is_the_weighted_mean_rating() -> None:
    rating_C = torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64)
    best = (WEIGHT_C * rating_C).sum() / WEIGHT_C.sum()
    score = best.clone().requires_grad_()
    loss = regression_loss(score.expand(3), rating_CA=rating_C, weight_C=WEIGHT_C).loss
    assert float(torch.autograd.grad(loss, score)[0]) == pytest.approx(0, abs=1e-12)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="2 attributes are scored, but 1 are named"):
        regression_loss(SCORES_CA, rating_CA=RATING_CA, attributes=("help",))
    with pytest.raises(ValueError, match="differ in shape"):
        regression_loss(SCORES_CA, rating_CA=RATING_CA[:, :1])
    with pytest.raises(ValueError, match="differ in shape"):
        regression_loss(SCORES_CA, rating_CA=RATING_CA, weight_C=WEIGHT_C[:2])
