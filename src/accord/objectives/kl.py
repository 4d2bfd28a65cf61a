"""Estimators of the KL divergence from samples (Schulman 2020, "Approximating KL Divergence").

Each takes the log-probabilities of the *sampled* tokens, d = log pi(a) - log pi_ref(a) with a drawn from
pi, and returns one estimate of KL(pi || pi_ref) per token, in nats, of the same shape. They know of no
mask: sum them with one. Their expectations hold only when the tokens were drawn from the very
distribution that is scored (same temperature, no top-p).

As a *loss* they are other things than as a value. On-policy, the gradient of k1 has mean zero, that of k2
is the gradient of KL(pi || pi_ref), and that of k3 is the gradient of KL(pi_ref || pi). As a *reward*
(PPO, RLOO) k1 is the right one: its expectation is exact and nothing is differentiated.
"""

from __future__ import annotations

from torch import Tensor, expm1


def k1(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """d: unbiased, of either sign, and of high variance (about half of its values are negative)."""
    return logps - ref_logps


def k2(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """d²/2: biased (right to second order where the two are close), never negative, of low variance."""
    return (logps - ref_logps).square() / 2


def k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """exp(-d) - 1 + d: unbiased, never negative, of low variance unless pi_ref greatly exceeds pi.

    It is k1 plus the control variate exp(-d) - 1, whose mean under pi is zero where pi covers pi_ref.
    """
    d = logps - ref_logps
    return expm1(-d) + d
