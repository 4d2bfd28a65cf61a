"""Comparisons with ties (Rao and Kupper 1967, "Ties in Paired-Comparison Experiments", JASA 62).

Two answers whose rewards differ by less than a threshold ν look alike to a rater. Against the soft label ½
of `bradley_terry`, which pulls tied rewards together, a tie here only says that they are within about ν.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from accord.errors import ConfigError
from accord.objectives.bradley_terry import pair_terms, smooth, towards_preferred
from accord.objectives.terms import same_shape
from accord.records import Terms


def rao_kupper_logps(difference_P: Tensor, threshold: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities (A better, tie, B better) for d = r_A - r_B and the threshold ν = log θ > 0.

    P(A) = σ(d - ν), P(B) = σ(-d - ν), P(tie) = (θ² - 1) P(A) P(B): the three sum to 1. ν may be a tensor
    that is learned with the rewards. Raises ConfigError when ν is not positive (ties would be impossible).
    """
    nu = torch.as_tensor(threshold, dtype=difference_P.dtype, device=difference_P.device)
    if not bool((nu > 0).all()):
        raise ConfigError(f"the Rao-Kupper threshold must be positive, not {threshold}")
    log_A_P = logsigmoid(difference_P - nu)
    log_B_P = logsigmoid(-difference_P - nu)
    # log(e^{2ν} - 1), written so that a large ν cannot overflow.
    return log_A_P, 2 * nu + torch.log(-torch.expm1(-2 * nu)) + log_A_P + log_B_P, log_B_P


def rao_kupper_loss(
    rewards_A_P: Tensor,
    rewards_B_P: Tensor,
    *,
    label_P: Tensor,
    threshold: float | Tensor,
    margin_P: Tensor | None = None,
    weight_P: Tensor | None = None,
    label_smoothing: float = 0.0,
    center_coef: float = 0.0,
) -> Terms:
    """Negative log-likelihood of wins, losses and ties; all else as in `bradley_terry_loss`.

    `label_P` must be 1 (A better), 0 (B better) or ½ (tie): a soft label could mean either doubt or a tie,
    so others raise ValueError. Smoothing swaps A and B and leaves ties as they are.
    """
    same_shape(rewards_A_P=rewards_A_P, rewards_B_P=rewards_B_P, label_P=label_P)
    tie_P = label_P == 0.5
    soft_P = ~tie_P & (label_P != 0) & (label_P != 1)
    if bool(soft_P.any()):
        raise ValueError(f"Rao-Kupper labels are 0, 0.5 or 1; got {label_P[soft_P][0].item()}")
    difference_P = rewards_A_P - rewards_B_P - towards_preferred(label_P, margin_P)
    log_A_P, log_tie_P, log_B_P = rao_kupper_logps(difference_P, threshold)
    target_P = smooth(label_P, label_smoothing)
    nll_P = torch.where(tie_P, -log_tie_P, -target_P * log_A_P - (1 - target_P) * log_B_P)
    return pair_terms(nll_P, rewards_A_P, rewards_B_P, label_P, weight_P, center_coef)
