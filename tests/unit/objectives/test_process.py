"""Rewards for steps: gradients, optima, masks, and how steps become one score."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from accord.errors import ConfigError
from accord.objectives.process import process_loss, solution_scores, until_first_error

NAN = math.nan


def f64(*rows) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


STEP_CT = torch.tensor([[True, False, True, True], [False, True, False, False]])
LOGITS_CT = f64([1.0, NAN, -2.0, 0.5], [NAN, 3.0, NAN, NAN])
LABEL_CT = f64([1.0, NAN, 0.0, 0.25], [NAN, 1.0, NAN, NAN])


def test_gradient_is_probability_less_label_at_steps_and_zero_elsewhere() -> None:
    logits_CT = LOGITS_CT.clone().requires_grad_()
    loss = process_loss(logits_CT, label_CT=LABEL_CT, step_CT=STEP_CT, weight_C=torch.tensor([1.0, 3.0])).loss
    (grad_CT,) = torch.autograd.grad(loss, logits_CT)
    want_CT = torch.tensor([[1.0], [3.0]]) * (LOGITS_CT.sigmoid() - LABEL_CT)
    assert_close(grad_CT, torch.where(STEP_CT, want_CT, 0.0))


def test_the_optimum_of_a_soft_label_is_its_logit() -> None:
    best = f64([math.log(0.25 / 0.75)]).requires_grad_()
    loss = process_loss(best, label_CT=f64([0.25]), step_CT=torch.tensor([[True]])).loss
    assert float(torch.autograd.grad(loss, best)[0]) == pytest.approx(0, abs=1e-12)


def test_huge_logits_stay_finite() -> None:
    one = torch.tensor([[True]])
    assert float(process_loss(f64([1e4]), label_CT=f64([0.0]), step_CT=one).loss) == 1e4
    assert float(process_loss(f64([1e4]), label_CT=f64([1.0]), step_CT=one).loss) == 0


def test_steps_after_the_first_error_are_dropped() -> None:
    label_CT = f64([1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0])
    step_CT = torch.tensor([[True] * 4, [True, False, True, True], [False, True, True, True]])
    assert until_first_error(label_CT, step_CT).tolist() == [
        [True, True, False, False],
        [True, False, True, True],
        [False, True, True, False],  # the 0 at the first token is no step
    ]


def test_one_score_per_solution() -> None:
    p = LOGITS_CT.sigmoid()
    want = {"product": p[0, 0] * p[0, 2] * p[0, 3], "min": p[0, 2], "last": p[0, 3]}
    for how, probability in want.items():
        got_C = solution_scores(LOGITS_CT, STEP_CT, how)
        assert_close(got_C.exp(), torch.stack([probability, p[1, 1]]))
    many_CT = torch.full((1, 5000), -2.0)
    assert math.isfinite(float(solution_scores(many_CT, many_CT < 0)[0]))


def test_gradients_of_scores_ignore_what_is_no_step() -> None:
    for how in ("product", "min", "last"):
        logits_CT = LOGITS_CT.clone().requires_grad_()
        (grad_CT,) = torch.autograd.grad(solution_scores(logits_CT, STEP_CT, how).sum(), logits_CT)
        assert bool(grad_CT.isfinite().all()) and bool((grad_CT[~STEP_CT] == 0).all())


def test_refusals() -> None:
    for label in (-0.1, 1.5, NAN):
        with pytest.raises(ValueError, match="labels of steps lie between 0 and 1"):
            process_loss(f64([0.0]), label_CT=f64([label]), step_CT=torch.tensor([[True]]))
    with pytest.raises(ValueError, match=r"solutions \[1\] have no step"):
        solution_scores(f64([0.0], [0.0]), torch.tensor([[True], [False]]))
    with pytest.raises(ConfigError, match="unknown way 'mean'"):
        solution_scores(f64([0.0]), torch.tensor([[True]]), "mean")
    with pytest.raises(ValueError, match="differ in shape"):
        process_loss(f64([0.0, 1.0]), label_CT=f64([0.0]), step_CT=torch.tensor([[True]]))
