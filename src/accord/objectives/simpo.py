"""Simple preference optimisation (Meng et al. 2024, 2405.14734): no reference, rewards per token."""

from __future__ import annotations

from accord.errors import ConfigError
from accord.objectives.pairs import PairLogps, check_positive, pair_terms, smoothed_nll
from accord.records import Terms


def simpo_loss(pairs: PairLogps, *, beta: float, gamma: float, label_smoothing: float = 0.0) -> Terms:
    """Σ_p -w log σ(β/|y_w| log π(y_w) - β/|y_l| log π(y_l) - γ) (Meng 2024, eq. 6).

    γ is the margin that the chosen answer's reward must win by, outside of β, as in the paper; γ/β near ½
    is usual. (TRL's `simpo_gamma` is the same number: there γ/β is taken inside of β.) `label_smoothing`
    acts as in `cdpo_loss`. Metrics: see `pairs.pair_terms`; the implicit reward is β log π per token.
    Raises ConfigError when β is not positive, γ is negative, or ε is outside [0, ½).
    """
    check_positive(beta=beta)
    if gamma < 0:
        raise ConfigError(f"gamma must be at least 0, not {gamma}")
    chosen_P, rejected_P = (beta * mean_P for mean_P in pairs.mean_logps)
    loss_P = smoothed_nll(chosen_P - rejected_P - gamma, label_smoothing)
    return pair_terms(pairs, loss_P, chosen_P, rejected_P)
