"""Graded comparisons and ratings: the cumulative-logit (proportional-odds) model.

McCullagh 1980, "Regression Models for Ordinal Data" (JRSS B 42), for the model; Agresti 1992, "Analysis of
Ordinal Paired Comparison Data" (Applied Statistics 41), for its use on comparisons. A margin (Llama 2) asks
for a fixed gap per grade; here the gaps that the grades stand for are thresholds, which may be learned.

An answer's grade is where a latent value, the score plus logistic noise, falls among ordered edges:
P(grade <= j) = σ(edge_j - score). P pairs, C answers, M thresholds, E edges, E + 1 grades.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from accord.errors import ConfigError
from accord.objectives.bradley_terry import pair_terms
from accord.objectives.terms import same_shape
from accord.records import Terms


def ordinal_logps(scores_C: Tensor, edges_E: Tensor) -> Tensor:
    """Log-probability of each grade, lowest first; shape (C, E + 1). The probabilities sum to 1.

    With u the upper and l the lower edge of a grade, less the score, σ(u) - σ(l) is exactly
    σ(u) σ(-l) (1 - e^{l - u}): no difference of nearly equal numbers, so no grade ever underflows.
    Raises ConfigError unless the edges increase strictly (a grade between equal edges could not occur).
    """
    edges_E = edges_E.to(scores_C)
    gaps_E = edges_E.diff()
    if not bool((gaps_E > 0).all()):
        raise ConfigError(f"thresholds must increase strictly, not {edges_E.tolist()}")
    above_CE = edges_E - scores_C[:, None]
    outermost_C1 = torch.zeros_like(scores_C)[:, None]
    log_below_CG = torch.cat([logsigmoid(above_CE), outermost_C1], dim=1)  # σ(u), 1 for the top grade
    log_over_CG = torch.cat([outermost_C1, logsigmoid(-above_CE)], dim=1)  # σ(-l), 1 for the bottom grade
    inner_E = torch.log(-torch.expm1(-gaps_E))
    return log_below_CG + log_over_CG + torch.cat([inner_E.new_zeros(1), inner_E, inner_E.new_zeros(1)])


def ordinal_loss(
    rewards_A_P: Tensor,
    rewards_B_P: Tensor,
    *,
    strength_P: Tensor,
    thresholds_M: Tensor,
    weight_P: Tensor | None = None,
    center_coef: float = 0.0,
) -> Terms:
    """-Σ_p w log P(strength | r_A - r_B), and the centring term of `bradley_terry_loss`.

    `strength_P` holds whole numbers from -M (B much better) over 0 (tie) to M (A much better). The edges are
    -t_M .. -t_1, t_1 .. t_M, so that swapping A and B mirrors the outcome. With M = 1 this is Rao-Kupper
    with ν = t_1; as t_1 → 0 and without ties, Bradley-Terry. Gradients reach the thresholds, which may be
    learned with the rewards (see `ordered_thresholds`). Divide by the sum of weights (by P without them).

    Metrics: see `pair_terms`. Raises ConfigError unless 0 < t_1 < .. < t_M, ValueError for another strength.
    """
    same_shape(rewards_A_P=rewards_A_P, rewards_B_P=rewards_B_P, strength_P=strength_P)
    if not bool((thresholds_M > 0).all()):
        raise ConfigError(f"thresholds of comparisons must be positive, not {thresholds_M.tolist()}")
    edges_E = torch.cat([-thresholds_M.flip(0), thresholds_M])
    grade_P = _grades(strength_P, lowest=-len(thresholds_M), highest=len(thresholds_M), name="strengths")
    logps_PG = ordinal_logps(rewards_A_P - rewards_B_P, edges_E)
    nll_P = -logps_PG.gather(1, grade_P[:, None]).squeeze(1)
    label_P = ((1 + torch.sign(strength_P)) / 2).to(nll_P)
    return pair_terms(nll_P, rewards_A_P, rewards_B_P, label_P, weight_P, center_coef)


def ordinal_rating_loss(
    scores_C: Tensor, *, rating_C: Tensor, thresholds_M: Tensor, weight_C: Tensor | None = None
) -> Terms:
    """-Σ_c w log P(rating | score) for single answers rated 1 .. M + 1 (stars); any increasing thresholds.

    Only differences of scores and thresholds are seen: fix the level of one of them. Divide by the sum of
    weights (by C without them).

    Metrics, weighted like the loss: `loss/reward_avg`, `rewards/accuracies` (the likeliest rating is the
    rating), `rewards/rating_error` (by how many stars the likeliest rating is off), `rewards/mean`.
    Raises ConfigError unless the thresholds increase, ValueError for a rating outside 1 .. M + 1.
    """
    weight_C = torch.ones_like(scores_C) if weight_C is None else weight_C
    same_shape(scores_C=scores_C, rating_C=rating_C, weight_C=weight_C)
    grade_C = _grades(rating_C, lowest=1, highest=len(thresholds_M) + 1, name="ratings")
    logps_CG = ordinal_logps(scores_C, thresholds_M)
    loss = -(weight_C * logps_CG.gather(1, grade_C[:, None]).squeeze(1)).sum()

    with torch.no_grad():
        off_C = (logps_CG.argmax(dim=1) - grade_C).abs()
        total = weight_C.sum()
        metrics = {
            "loss/reward_avg": (loss.detach(), total),
            "rewards/accuracies": ((weight_C * (off_C == 0)).sum(), total),
            "rewards/rating_error": ((weight_C * off_C).sum(), total),
            "rewards/mean": ((weight_C * scores_C).sum(), total),
        }
    return Terms(loss, metrics)


def ordered_thresholds(raw_M: Tensor) -> Tensor:
    """Unconstrained parameters to 0 < t_1 < .. < t_M: t_m = Σ_{k <= m} softplus(raw_k)."""
    return softplus(raw_M).cumsum(0)


def raw_thresholds(thresholds_M: Tensor) -> Tensor:
    """The parameters that `ordered_thresholds` maps to these thresholds: where training may start.

    Raises ConfigError unless 0 < t_1 < .. < t_M.
    """
    steps_M = torch.diff(thresholds_M, prepend=thresholds_M.new_zeros(1))
    if not bool((steps_M > 0).all()):
        raise ConfigError(f"thresholds must be positive and increase, not {thresholds_M.tolist()}")
    return steps_M + torch.log(-torch.expm1(-steps_M))  # log(e^x - 1), which cannot overflow


def _grades(value_C: Tensor, *, lowest: int, highest: int, name: str) -> Tensor:
    """Column of each value among the grades. Raises ValueError for what is no grade."""
    bad_C = ~((value_C >= lowest) & (value_C <= highest) & (value_C == value_C.round()))  # NaN is bad
    if bool(bad_C.any()):
        raise ValueError(
            f"{name} are whole numbers from {lowest} to {highest} with these thresholds; "
            f"got {value_C[bad_C][0].item():g}"
        )
    return (value_C - lowest).long()
