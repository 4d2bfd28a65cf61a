"""Safe RLHF (Dai et al. 2023, arXiv 2310.12773): the best reward whose cost stays within a limit.

Two models learn from two kinds of comparisons, a reward (which answer helps more) and a cost (which harms
more), and PPO maximises E[R] subject to E[C] <= limit by Lagrange's multiplier λ, which grows while the limit
is broken and shrinks while it is kept.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from accord.errors import ConfigError
from accord.objectives.bradley_terry import bradley_terry_loss
from accord.objectives.terms import same_shape
from accord.records import Terms


def cost_loss(
    costs_A_P: Tensor,
    costs_B_P: Tensor,
    *,
    label_P: Tensor,
    unsafe_A_P: Tensor,
    unsafe_B_P: Tensor,
    weight_P: Tensor | None = None,
) -> Terms:
    """Σ_p w [-y log σ(Δ) - (1 - y) log σ(-Δ) - log σ(s_A C_A) - log σ(s_B C_B)], Δ = C_A - C_B (eq. 6).

    y is `label_P`, the probability that A is the *more harmful* one. s is +1 for an unsafe answer and -1
    for a safe one (boolean `unsafe_*_P`): comparisons alone leave the cost's level free, and this puts zero
    at the border, so that a positive cost means unsafe. Divide by the sum of weights (by P without them).

    Metrics: those of `bradley_terry_loss` for the comparison, and `costs/safety_accuracies`, the share of
    answers on their side of zero (a cost of 0 is half right).
    """
    same_shape(costs_A_P=costs_A_P, unsafe_A_P=unsafe_A_P, unsafe_B_P=unsafe_B_P)
    compared = bradley_terry_loss(costs_A_P, costs_B_P, label_P=label_P, weight_P=weight_P)
    weight_P = torch.ones_like(costs_A_P) if weight_P is None else weight_P
    side_A_P = torch.where(unsafe_A_P, costs_A_P, -costs_A_P)
    side_B_P = torch.where(unsafe_B_P, costs_B_P, -costs_B_P)
    border = -(weight_P * (logsigmoid(side_A_P) + logsigmoid(side_B_P))).sum()

    with torch.no_grad():
        right_P = (2 + torch.sign(side_A_P) + torch.sign(side_B_P)) / 2
        safety = ((weight_P * right_P).sum(), 2 * weight_P.sum())
    return Terms(compared.loss + border, {**compared.metrics, "costs/safety_accuracies": safety})


def lagrangian_advantages(
    reward_advantages_CT: Tensor, cost_advantages_CT: Tensor, multiplier: float
) -> Tensor:
    """(A_R - λ A_C) / (1 + λ), the advantages of the Lagrangian (section 3.3 and eq. 30).

    The division keeps the size of a step the same however large λ grows. Each part comes from its own
    critic. The paper halves the KL penalty, adding β/2 to the cost and taking β/2 from the reward, so that
    it weighs β/2 at every λ: call `shape_rewards` with kl_coef β/2 for the reward and -β/2 for the cost.
    Raises ConfigError for a negative multiplier, under which breaking the limit would pay.
    """
    if not multiplier >= 0:
        raise ConfigError(f"the Lagrange multiplier must be at least 0, not {multiplier}")
    same_shape(reward_advantages_CT=reward_advantages_CT, cost_advantages_CT=cost_advantages_CT)
    return (reward_advantages_CT - multiplier * cost_advantages_CT) / (1 + multiplier)


def update_multiplier(
    multiplier: float,
    mean_cost: float,
    *,
    limit: float = 0.0,
    learning_rate: float = 0.1,
    maximum: float = math.inf,
) -> float:
    """The next λ: ln λ ← ln λ + α λ (E[C] - limit), at most `maximum` (eq. 31).

    A step of gradient ascent in ln λ, so λ stays positive. `mean_cost` is E[C], without any KL term, best
    taken over the last hundred or so completions (the paper's d is -limit). Since the step itself has the
    factor λ, a λ near 0 needs long to come back. Raises ConfigError unless λ, α and maximum are positive.
    """
    if not (multiplier > 0 and learning_rate > 0 and maximum > 0):
        raise ConfigError(
            f"the Lagrange multiplier ({multiplier}), its learning rate ({learning_rate}) and its maximum "
            f"({maximum}) must be positive"
        )
    exponent = math.log(multiplier) + learning_rate * multiplier * (mean_cost - limit)
    return math.exp(min(max(exponent, -700.0), math.log(maximum), 700.0))  # e^±700 is still a float
