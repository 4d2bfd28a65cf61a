"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, 2402.01306): single answers, found good or bad.

C answers. Log-probabilities are natural and summed over an answer's tokens, its end of turn among them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accord.objectives.pairs import check_positive
from accord.objectives.terms import same_shape
from accord.records import Terms


def kto_loss(
    logps_C: Tensor,
    ref_logps_C: Tensor,
    *,
    good_C: Tensor,
    baseline: float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    weight_C: Tensor | None = None,
) -> Terms:
    """Σ_c w λ (1 - σ(± β (ρ - z₀))), ρ = log π/π_ref; + and λ_D where good, - and λ_U where bad (eq. 8).

    `baseline` is z₀ of `kl_baseline`: the same number for all answers of a step, and no gradient goes
    through it. Each answer's loss lies between 0 and λ. The paper wants λ_D n_good / (λ_U n_bad) between 1
    and 4/3. Divide by the sum of weights (by C without them); λ is no part of that count.

    Metrics, weighted like the loss: `loss/preference_avg`, `rewards/chosen` and `logps/chosen` over the good
    answers, `rewards/rejected` and `logps/rejected` over the bad (rewards are β ρ), `rewards/accuracies` the
    share of answers on the right side of the baseline, `kl` z₀ itself. Raises ConfigError when β or a
    λ is not positive.
    """
    check_positive(beta=beta, desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
    weight_C = torch.ones_like(logps_C) if weight_C is None else weight_C
    same_shape(logps_C=logps_C, ref_logps_C=ref_logps_C, good_C=good_C, weight_C=weight_C)
    ratio_C = logps_C - ref_logps_C
    liked_C = good_C.to(ratio_C)  # 1 or 0, in the dtype of the rest
    sign_C, lambda_C = 2 * liked_C - 1, desirable_weight * liked_C + undesirable_weight * (1 - liked_C)
    loss_C = lambda_C * (1 - torch.sigmoid(sign_C * beta * (ratio_C - baseline)))
    loss = (weight_C * loss_C).sum()

    with torch.no_grad():
        good_weight_C, bad_weight_C = weight_C * liked_C, weight_C * (1 - liked_C)
        right_C = (1 + torch.sign(sign_C * (ratio_C - baseline))) / 2
        metrics: dict[str, tuple[Tensor | float, Tensor | float]] = {
            "loss/preference_avg": (loss.detach(), weight_C.sum()),
            "rewards/chosen": ((good_weight_C * beta * ratio_C).sum(), good_weight_C.sum()),
            "rewards/rejected": ((bad_weight_C * beta * ratio_C).sum(), bad_weight_C.sum()),
            "rewards/accuracies": ((weight_C * right_C).sum(), weight_C.sum()),
            "logps/chosen": ((good_weight_C * logps_C).sum(), good_weight_C.sum()),
            "logps/rejected": ((bad_weight_C * logps_C).sum(), bad_weight_C.sum()),
            "kl": (baseline * weight_C.sum(), weight_C.sum()),
        }
    return Terms(loss, metrics)


@torch.no_grad()
def kl_baseline(logps_C: Tensor, ref_logps_C: Tensor) -> Tensor:
    """max(0, Σ_c log π/π_ref / C), a scalar: z₀ from C *mismatched* answers, each to another's prompt.

    The paper's estimate of KL(π || π_ref) at the answers of a batch (section 4.1): rough, but cheap, and a
    mismatched answer says nothing about whether its own prompt liked it. Take it over a whole step, not
    over a micro-batch, or the gradient depends on how the step was cut. Raises ValueError when C is 0.
    """
    same_shape(logps_C=logps_C, ref_logps_C=ref_logps_C)
    if not logps_C.numel():
        raise ValueError("the KL baseline needs at least one mismatched answer")
    return (logps_C - ref_logps_C).mean().clamp(min=0)
