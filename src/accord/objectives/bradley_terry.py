"""The reward model's loss on comparisons.

Bradley and Terry 1952 for the model, InstructGPT (Ouyang et al. 2022, 2203.02155, eq. 1) for its use on
rewards, Llama 2 (Touvron et al. 2023, 2307.09288, eq. 2) for the margin by strength of preference,
Eisenstein et al. 2023 (2312.09244) for the centring term, Wang et al. 2024 (2401.06080) for soft labels.

P pairs. The loss is written in slots A and B, not in chosen and rejected, since ties and soft labels have
no chosen side.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from accord.errors import ConfigError
from accord.objectives.terms import same_shape
from accord.records import Terms


def bradley_terry_loss(
    rewards_A_P: Tensor,
    rewards_B_P: Tensor,
    *,
    label_P: Tensor,
    margin_P: Tensor | None = None,
    weight_P: Tensor | None = None,
    label_smoothing: float = 0.0,
    center_coef: float = 0.0,
) -> Terms:
    """Σ_p w [-y log σ(Δ) - (1 - y) log σ(-Δ) + η (r_A + r_B)²] with Δ = r_A - r_B - s.

    y is `label_P`, the probability that A is better: 1, 0, ½ for a tie, or any soft label between. With
    `label_smoothing` ε it becomes (1 - ε) y + ε (1 - y): the optimum of Δ on sure labels is logit(1 - ε).
    s is `margin_P` towards the preferred side (+m where y > ½, -m where y < ½, none on a tie): on a sure
    label this is Llama 2's -log σ(r_c - r_r - m). η is `center_coef` (0.01 in the paper). Divide by the sum
    of weights (by P without them).

    Metrics: see `pair_terms`. Raises ConfigError when `label_smoothing` is outside [0, ½).
    """
    same_shape(rewards_A_P=rewards_A_P, rewards_B_P=rewards_B_P, label_P=label_P)
    difference_P = rewards_A_P - rewards_B_P - towards_preferred(label_P, margin_P)
    target_P = smooth(label_P, label_smoothing)
    nll_P = -target_P * logsigmoid(difference_P) - (1 - target_P) * logsigmoid(-difference_P)
    return pair_terms(nll_P, rewards_A_P, rewards_B_P, label_P, weight_P, center_coef)


def towards_preferred(label_P: Tensor, margin_P: Tensor | None) -> Tensor:
    """The margin, signed: positive where A is preferred, negative where B is, 0 on a tie."""
    if margin_P is None:
        return torch.zeros_like(label_P)
    same_shape(label_P=label_P, margin_P=margin_P)
    return torch.sign(label_P - 0.5) * margin_P


def smooth(label_P: Tensor, label_smoothing: float) -> Tensor:
    """The label as it would read if each rater had erred with probability `label_smoothing`."""
    if not 0 <= label_smoothing < 0.5:
        raise ConfigError(f"label_smoothing must be at least 0 and below 0.5, not {label_smoothing}")
    return (1 - label_smoothing) * label_P + label_smoothing * (1 - label_P)


def pair_terms(
    nll_P: Tensor,
    rewards_A_P: Tensor,
    rewards_B_P: Tensor,
    label_P: Tensor,
    weight_P: Tensor | None,
    center_coef: float,
) -> Terms:
    """Weighted sum of the pairs' negative log-likelihoods and the centring term η (r_A + r_B)².

    Metrics, each weighted like the loss: `loss/reward_avg` (the likelihood alone), `rewards/accuracies` and
    `rewards/margins` (r preferred - r other) over the pairs that are no ties, `rewards/mean` over both
    slots (near 0 when centring works). Equal rewards count as half right.
    """
    weight_P = torch.ones_like(nll_P) if weight_P is None else weight_P
    same_shape(nll_P=nll_P, weight_P=weight_P)
    center_P = (rewards_A_P + rewards_B_P).square()
    loss = (weight_P * (nll_P + center_coef * center_P)).sum()

    with torch.no_grad():
        preferred_P = torch.sign(label_P - 0.5)  # +1, -1, or 0 on a tie
        margin_P = preferred_P * (rewards_A_P - rewards_B_P)
        right_P = (1 + torch.sign(margin_P)) / 2
        decided_P = weight_P * preferred_P.abs()
        metrics = {
            "loss/reward_avg": ((weight_P * nll_P).sum(), weight_P.sum()),
            "rewards/accuracies": ((decided_P * right_P).sum(), decided_P.sum()),
            "rewards/margins": ((decided_P * margin_P).sum(), decided_P.sum()),
            "rewards/mean": ((weight_P * (rewards_A_P + rewards_B_P)).sum(), 2 * weight_P.sum()),
        }
    return Terms(loss, metrics)
