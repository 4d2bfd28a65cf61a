"""Negative log-likelihood: sums over real tokens, whatever the padding and the split."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from accord.objectives.sft import nll

MASK_CT = torch.tensor([[True, True, False], [True, False, False]])
LOGPS_CT = torch.tensor([[-1.0, -2.0, math.nan], [-4.0, math.nan, -64.0]], dtype=torch.float64)


def test_sum_over_real_tokens() -> None:
    terms = nll(LOGPS_CT, MASK_CT)
    assert float(terms.loss) == 7
    total, count = terms.metrics["loss/nll_avg"]
    assert (float(total), int(count)) == (7, 3)


def test_weights_scale_the_loss_and_not_the_metric() -> None:
    terms = nll(LOGPS_CT, MASK_CT, torch.tensor([2.0, 0.5], dtype=torch.float64))
    assert float(terms.loss) == 2 * 3 + 0.5 * 4
    assert float(terms.metrics["loss/nll_avg"][0]) == 7


def test_gradient_is_minus_the_weight_on_real_tokens_and_zero_elsewhere() -> None:
    logps_CT = LOGPS_CT.clone().requires_grad_()
    (grad,) = torch.autograd.grad(nll(logps_CT, MASK_CT, torch.tensor([2.0, 0.5]).double()).loss, logps_CT)
    assert grad.tolist() == [[-2.0, -2.0, 0.0], [-0.5, 0.0, 0.0]]


def test_micro_batches_add_up() -> None:
    parts = [nll(LOGPS_CT[c : c + 1], MASK_CT[c : c + 1]).loss for c in range(2)]
    assert_close(parts[0] + parts[1], nll(LOGPS_CT, MASK_CT).loss)


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="weight_C"):
        nll(LOGPS_CT, MASK_CT, torch.ones(3))
