"""What the losses on pairs share: shapes, weights, smoothing, metrics, the SFT term."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from accord.errors import ConfigError
from accord.objectives import OFFLINE
from accord.objectives.pairs import PairLogps, chosen_nll, smoothed_nll

# Every method with settings under which each of them matters.
OWN: dict[str, dict[str, Any]] = {
    "dpo": {"beta": 0.3, "margin_coef": 0.5},
    "cdpo": {"beta": 0.3, "label_smoothing": 0.2, "margin_coef": 0.5},
    "robust-dpo": {"beta": 0.3, "label_smoothing": 0.2, "margin_coef": 0.5},
    "ipo": {"beta": 0.3, "form": "mean"},
    "orpo": {"beta": 0.3},
    "simpo": {"beta": 2.0, "gamma": 1.0, "label_smoothing": 0.1},
    "cpo": {"beta": 0.3, "label_smoothing": 0.1},
}
WITHOUT_REFERENCE = ("orpo", "simpo", "cpo")
METHODS = sorted(OFFLINE)
LOGPS_4P = torch.tensor(
    [[-4.0, -9, -2], [-5, -8, -7], [-4.5, -7, -3], [-4, -9, -6]], dtype=torch.float64
)  # chosen, rejected, and the same under the reference


def pairs_of(logps_4P: Tensor, keep: slice = slice(None), **changes: Any) -> PairLogps:
    length_P = torch.tensor([4.0, 9, 3], dtype=torch.float64)[keep]
    weight_P = torch.tensor([1.0, 0.5, 2], dtype=torch.float64)[keep]
    margin_P = torch.tensor([0.0, 1, 2], dtype=torch.float64)[keep]
    columns = {"weight_P": weight_P, "margin_P": margin_P, **changes}
    return PairLogps(*logps_4P[:, keep], length_P, length_P + 2, **columns)


def test_every_method_is_tested_here() -> None:
    assert OWN.keys() == OFFLINE.keys()


@pytest.mark.parametrize("name", METHODS)
def test_gradient_by_finite_differences(name: str) -> None:
    logps_4P = LOGPS_4P.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: OFFLINE[name](pairs_of(x), **OWN[name]).loss, logps_4P)


@pytest.mark.parametrize("name", METHODS)
def test_the_chosen_answer_is_pushed_up_and_the_rejected_down(name: str) -> None:
    logps_4P = LOGPS_4P.clone().requires_grad_()
    OFFLINE[name](pairs_of(logps_4P), **OWN[name]).loss.backward()
    assert logps_4P.grad is not None
    assert (logps_4P.grad[0] < 0).all() and (logps_4P.grad[1] > 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_only_methods_with_a_reference_read_it(name: str) -> None:
    other_4P = LOGPS_4P.clone()
    other_4P[2:] -= torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    before, after = (OFFLINE[name](pairs_of(x), **OWN[name]).loss for x in (LOGPS_4P, other_4P))
    assert (float(before) == float(after)) == (name in WITHOUT_REFERENCE)


@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_add_up(name: str) -> None:
    def part(keep: slice) -> Any:
        return OFFLINE[name](pairs_of(LOGPS_4P, keep), **OWN[name])

    whole, first, second = part(slice(None)), part(slice(0, 1)), part(slice(1, None))
    assert_close(first.loss + second.loss, whole.loss)
    for metric, (total, count) in whole.metrics.items():
        sums = [[float(x) for x in terms.metrics[metric]] for terms in (first, second)]
        assert sum(s[0] for s in sums) == pytest.approx(float(total)), metric
        assert sum(s[1] for s in sums) == pytest.approx(float(count)), metric


@pytest.mark.parametrize("name", METHODS)
@given(weight=st.integers(1, 4))
@settings(max_examples=4, deadline=None)
def test_a_weight_is_that_many_copies(name: str, weight: int) -> None:
    one = LOGPS_4P[:, :1]
    ones_P = torch.ones(weight, dtype=torch.float64)
    heavy = pairs_of(one, slice(0, 1), weight_P=torch.tensor([float(weight)], dtype=torch.float64))
    many = PairLogps(*one.expand(4, weight), 4 * ones_P, 6 * ones_P)
    own = {k: v for k, v in OWN[name].items() if k != "margin_coef"}
    assert_close(OFFLINE[name](heavy, **own).loss, OFFLINE[name](many, **own).loss)


@pytest.mark.parametrize("name", METHODS)
def test_far_apart_answers_stay_finite(name: str) -> None:
    for near, far in ((-1.0, -1e4), (-1e4, -1.0)):
        logps_4P = torch.tensor([[near], [far], [far], [near]], requires_grad=True)
        length_P = torch.full((1,), 20.0)
        loss = OFFLINE[name](PairLogps(*logps_4P, length_P, length_P), **OWN[name]).loss
        loss.backward()
        assert math.isfinite(float(loss.detach())), name
        assert logps_4P.grad is not None and torch.isfinite(logps_4P.grad).all(), name


@pytest.mark.parametrize("name", METHODS)
def test_a_beta_that_is_not_positive_is_refused(name: str) -> None:
    for beta in (0.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="beta must be positive, not"):
            OFFLINE[name](pairs_of(LOGPS_4P), **{**OWN[name], "beta": beta})


@pytest.mark.parametrize("name", [n for n in METHODS if "label_smoothing" in OWN[n]])
def test_a_share_of_wrong_labels_outside_zero_to_a_half_is_refused(name: str) -> None:
    for epsilon in (-0.01, 0.5):
        with pytest.raises(ConfigError, match=rf"label_smoothing must be .* below 0.5, not {epsilon}"):
            OFFLINE[name](pairs_of(LOGPS_4P), **{**OWN[name], "label_smoothing": epsilon})


@pytest.mark.parametrize("name", [n for n in METHODS if "label_smoothing" in OWN[n]])
def test_label_smoothing_is_really_applied(name: str) -> None:
    plain, smooth = (
        float(OFFLINE[name](pairs_of(LOGPS_4P), **{**OWN[name], "label_smoothing": e}).loss) for e in (0, 0.1)
    )
    assert abs(plain - smooth) > 1e-3


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"chosen_P \(3,\).*margin_P \(2,\)"):
        pairs_of(LOGPS_4P, margin_P=torch.zeros(2))


def test_the_smoothed_likelihood_is_least_at_logit_of_one_minus_epsilon() -> None:
    for epsilon in (0.05, 0.3):
        best = math.log((1 - epsilon) / epsilon)
        d_P = torch.tensor([best - 0.1, best, best + 0.1], dtype=torch.float64, requires_grad=True)
        (slope_P,) = torch.autograd.grad(smoothed_nll(d_P, epsilon).sum(), d_P)
        assert slope_P[0] < 0 < slope_P[2] and abs(float(slope_P[1])) < 1e-12


def test_metrics_of_three_pairs() -> None:
    """One won by 1, one tied, one lost by 3, with weights 1, 0.5 and 2; β = 0.5."""
    logps_4P = torch.tensor([[-4.0, -9, -6], [-5, -8, -1], [-4, -8, -5], [-4, -7, -3]], dtype=torch.float64)
    terms = OFFLINE["dpo"](pairs_of(logps_4P, margin_P=None), beta=0.5)
    sums = {name: (float(total), float(count)) for name, (total, count) in terms.metrics.items()}
    assert sums["rewards/chosen"] == (0.5 * (0 - 0.5 - 2), 3.5)
    assert sums["rewards/rejected"] == (0.5 * (-1 - 0.5 + 4), 3.5)
    assert sums["rewards/margins"] == (0.5 * (1 + 0 - 6), 3.5)
    assert sums["rewards/accuracies"] == (1 + 0.25 + 0, 3.5)
    assert sums["logps/chosen"] == (-4 - 4.5 - 12, 3.5)
    assert sums["loss/preference_avg"] == (pytest.approx(float(terms.loss)), 3.5)
    assert not any(isinstance(x, Tensor) and x.requires_grad for pair in terms.metrics.values() for x in pair)


def test_the_sft_term_is_a_mean_over_each_answers_tokens() -> None:
    terms = chosen_nll(pairs_of(LOGPS_4P))
    want = 1 * 4 / 4 + 0.5 * 9 / 9 + 2 * 2 / 3
    assert float(terms.loss) == pytest.approx(want)
    assert [float(x) for x in terms.metrics["loss/sft_avg"]] == pytest.approx([want, 3.5])
