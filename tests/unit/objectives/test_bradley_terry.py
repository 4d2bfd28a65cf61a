"""Preference losses: gradients, optima that are known, and data whose answer is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from accord.errors import ConfigError
from accord.objectives.bradley_terry import bradley_terry_loss
from accord.objectives.rao_kupper import rao_kupper_logps, rao_kupper_loss
from accord.records import Terms


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def minimise(loss, *parameters: Tensor) -> None:
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)


def slope(difference: float, label: float, **settings) -> float:
    """d loss / d r_A of one pair with r_A - r_B = difference."""
    rewards_A_P = f64(difference).requires_grad_()
    terms = bradley_terry_loss(rewards_A_P, f64(0.0), label_P=f64(label), **settings)
    return float(torch.autograd.grad(terms.loss, rewards_A_P)[0])


# --- gradients ---------------------------------------------------------------------------------------------

A_P, B_P = f64(1.0, -0.5, 2.0, 0.3), f64(0.2, 0.7, 2.0, -1.5)
LABEL_P, MARGIN_P, WEIGHT_P = f64(1, 0, 0.5, 0.8), f64(1, 2 / 3, 3, 0), f64(1, 2, 0.5, 1.5)
EVERYTHING = {
    "label_P": LABEL_P,
    "margin_P": MARGIN_P,
    "weight_P": WEIGHT_P,
    "label_smoothing": 0.1,
    "center_coef": 0.01,
}


def test_gradient_by_finite_differences() -> None:
    rewards = A_P.clone().requires_grad_(), B_P.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: bradley_terry_loss(a, b, **EVERYTHING).loss, rewards)
    labels = {**EVERYTHING, "label_P": f64(1, 0, 0.5, 1)}
    nu = f64(0.7).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b, v: rao_kupper_loss(a, b, threshold=v, **labels).loss, (*rewards, nu)
    )


def test_gradient_is_the_probability_of_being_wrong() -> None:
    for difference in (-2.0, 0.0, 3.0):
        wrong = 1 / (1 + math.exp(difference))
        assert slope(difference, 1.0) == pytest.approx(-wrong)
        assert slope(difference, 0.0) == pytest.approx(1 - wrong)


def test_huge_gaps_stay_finite() -> None:
    for sign in (1, -1):
        terms = bradley_terry_loss(f64(sign * 1e4), f64(0.0), label_P=f64(0.0))
        assert float(terms.loss) == (1e4 if sign == 1 else 0)
        assert math.isfinite(
            float(rao_kupper_loss(f64(sign * 1e4), f64(0), label_P=f64(0.5), threshold=300.0).loss)
        )


# --- optima ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.3])
def test_label_smoothing_moves_the_optimum_to_logit_of_one_minus_epsilon(epsilon: float) -> None:
    for label, sign in ((1.0, 1), (0.0, -1)):
        best = sign * logit(1 - epsilon)
        assert slope(best, label, label_smoothing=epsilon) == pytest.approx(0, abs=1e-12)
        assert slope(best - 0.1, label, label_smoothing=epsilon) < 0
        assert slope(best + 0.1, label, label_smoothing=epsilon) > 0
    assert slope(0.0, 0.5, label_smoothing=epsilon) == pytest.approx(0, abs=1e-12)


def test_a_margin_asks_for_that_much_more_on_the_preferred_side_only() -> None:
    margin_P = f64(1.5)
    assert slope(2.0, 1.0, margin_P=margin_P) == pytest.approx(slope(0.5, 1.0))
    assert slope(-2.0, 0.0, margin_P=margin_P) == pytest.approx(slope(-0.5, 0.0))
    assert slope(0.7, 0.5, margin_P=margin_P) == slope(0.7, 0.5)
    llama_2 = -math.log(1 / (1 + math.exp(-(3.0 - 1.0 - 1.5))))
    got = bradley_terry_loss(f64(3.0), f64(1.0), label_P=f64(1), margin_P=margin_P)
    assert float(got.loss) == pytest.approx(llama_2)


def test_slots_are_symmetric() -> None:
    mirrored = {**EVERYTHING, "label_P": 1 - LABEL_P}
    assert_close(
        bradley_terry_loss(A_P, B_P, **EVERYTHING).loss, bradley_terry_loss(B_P, A_P, **mirrored).loss
    )


def test_centring_pins_the_free_constant() -> None:
    """Bradley-Terry sees differences only; the centring term alone decides where zero is."""

    def fitted(center_coef: float) -> Tensor:
        rewards = f64(5.0, 4.0).requires_grad_()
        minimise(
            lambda: (
                bradley_terry_loss(
                    rewards[:1], rewards[1:], label_P=f64(1), label_smoothing=0.2, center_coef=center_coef
                ).loss
            ),
            rewards,
        )
        return rewards.detach()

    free, centred = fitted(0.0), fitted(0.01)
    assert float(free.sum()) == pytest.approx(9, abs=1e-6)
    assert float(centred.sum()) == pytest.approx(0, abs=1e-4)
    assert float(centred[0] - centred[1]) == pytest.approx(logit(0.8), abs=1e-4)


TRUE_K = f64(0.0, 1.3, -0.7, 2.2, 0.4)
LEFT_P, RIGHT_P = torch.tensor(list(itertools.combinations(range(5), 2))).T


def fit(loss) -> Tensor:
    """Rewards of the five items that minimise the loss, shifted so that the first is 0."""
    rewards_K = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    minimise(lambda: loss(rewards_K[LEFT_P], rewards_K[RIGHT_P]).loss, rewards_K)
    return rewards_K.detach() - rewards_K.detach()[0]


def test_population_data_gives_back_the_true_rewards() -> None:
    wins_P = (TRUE_K[LEFT_P] - TRUE_K[RIGHT_P]).sigmoid()
    soft = fit(lambda a, b: bradley_terry_loss(a, b, label_P=wins_P))
    assert_close(soft, TRUE_K, rtol=0, atol=1e-5)

    def counted(a: Tensor, b: Tensor) -> Terms:
        twice = {"label_P": torch.cat([torch.ones_like(wins_P), torch.zeros_like(wins_P)])}
        weight_P = torch.cat([wins_P, 1 - wins_P])
        return bradley_terry_loss(torch.cat([a, a]), torch.cat([b, b]), weight_P=weight_P, **twice)

    assert_close(fit(counted), TRUE_K, rtol=0, atol=1e-5)


def test_population_data_with_ties_gives_back_rewards_and_threshold() -> None:
    """Ties counted as ½ shrink the rewards; Rao-Kupper, told the outcome, finds them and ν."""
    nu = 0.8
    shares = [log_p.exp() for log_p in rao_kupper_logps(TRUE_K[LEFT_P] - TRUE_K[RIGHT_P], nu)]
    labels = torch.cat([torch.full_like(shares[0], y) for y in (1.0, 0.5, 0.0)])
    data = {"label_P": labels, "weight_P": torch.cat(shares)}
    raw_nu = f64(0.0).requires_grad_()
    rewards_K = torch.zeros(5, dtype=torch.float64, requires_grad=True)

    def likelihood() -> Tensor:
        a, b = rewards_K[LEFT_P].repeat(3), rewards_K[RIGHT_P].repeat(3)
        return rao_kupper_loss(a, b, threshold=raw_nu.exp(), **data).loss

    minimise(likelihood, rewards_K, raw_nu)
    assert_close((rewards_K - rewards_K[0]).detach(), TRUE_K, rtol=0, atol=1e-4)
    assert float(raw_nu.detach().exp()) == pytest.approx(nu, abs=1e-4)

    soft = fit(lambda a, b: bradley_terry_loss(a.repeat(3), b.repeat(3), **data))
    assert float(soft.max() - soft.min()) < 0.9 * float(TRUE_K.max() - TRUE_K.min())


# --- Rao-Kupper --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nu", [0.01, 0.5, 3.0])
def test_rao_kupper_probabilities_sum_to_one(nu: float) -> None:
    difference_P = torch.linspace(-8, 8, 33, dtype=torch.float64)
    win, tie, loss = (log_p.exp() for log_p in rao_kupper_logps(difference_P, nu))
    assert_close(win + tie + loss, torch.ones_like(win))
    assert int(tie.argmax()) == 16 and (tie > 0).all()  # likeliest where the rewards are equal
    assert_close(win.flip(0), loss)


def test_rao_kupper_becomes_bradley_terry_as_ties_vanish() -> None:
    settings = {**EVERYTHING, "label_P": f64(1, 0, 1, 0)}
    assert_close(
        rao_kupper_loss(A_P, B_P, threshold=1e-9, **settings).loss,
        bradley_terry_loss(A_P, B_P, **settings).loss,
        rtol=1e-7,
        atol=0,
    )


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"labels are 0, 0.5 or 1; got 0.7"):
        rao_kupper_loss(f64(1), f64(0), label_P=f64(0.7), threshold=1.0)
    with pytest.raises(ConfigError, match="threshold must be positive, not 0"):
        rao_kupper_loss(f64(1), f64(0), label_P=f64(1), threshold=0.0)
    with pytest.raises(ConfigError, match=r"label_smoothing .* not 0.5"):
        bradley_terry_loss(f64(1), f64(0), label_P=f64(1), label_smoothing=0.5)
    with pytest.raises(ValueError, match="label_P"):
        bradley_terry_loss(f64(1, 2), f64(0, 1), label_P=f64(1))


# --- sums and metrics --------------------------------------------------------------------------------------


def test_metrics_of_three_pairs() -> None:
    """One right by 2, one wrong by 1, one tie; weights 1, 3 and 5."""
    terms = bradley_terry_loss(f64(2, 1, 4), f64(0, 0, 4), label_P=f64(1, 0, 0.5), weight_P=f64(1, 3, 5))
    metrics = {name: (float(total), float(count)) for name, (total, count) in terms.metrics.items()}
    assert metrics["rewards/accuracies"] == (1.0, 4.0)
    assert metrics["rewards/margins"] == (1 * 2 - 3 * 1, 4.0)
    assert metrics["rewards/mean"] == (1 * 2 + 3 * 1 + 5 * 8, 18.0)
    assert metrics["loss/reward_avg"] == pytest.approx((float(terms.loss), 9.0))


@pytest.mark.parametrize("loss", [bradley_terry_loss, rao_kupper_loss])
def test_micro_batches_add_up(loss) -> None:
    extra = {"threshold": 0.4} if loss is rao_kupper_loss else {}
    columns = {"label_P": f64(1, 0, 0.5, 1), "margin_P": MARGIN_P, "weight_P": WEIGHT_P}

    def part(keep: slice) -> tuple[Tensor, Tensor]:
        a = A_P[keep].clone().requires_grad_()
        terms = loss(a, B_P[keep], center_coef=0.01, **{k: v[keep] for k, v in columns.items()}, **extra)
        return terms.loss, torch.autograd.grad(terms.loss, a, retain_graph=True)[0]

    whole, first, second = part(slice(None)), part(slice(0, 1)), part(slice(1, None))
    assert_close(first[0] + second[0], whole[0])
    assert_close(torch.cat([first[1], second[1]]), whole[1])
