"""Contrastive preference optimisation (Xu et al. 2024, 2401.08417)."""

from __future__ import annotations

from accord.objectives.pairs import PairLogps, check_positive, pair_terms, smoothed_nll
from accord.records import Terms


def cpo_loss(pairs: PairLogps, *, beta: float, label_smoothing: float = 0.0) -> Terms:
    """Σ_p -w log σ(β log π(y_w) - β log π(y_l)): DPO against a uniform reference (Xu 2024, L_prefer).

    The paper adds the likelihood of the chosen answer (L_NLL): `pairs.chosen_nll`. `label_smoothing` acts as
    in `cdpo_loss`. Metrics: see `pairs.pair_terms`; the implicit reward is β log π. Raises ConfigError when
    β is not positive or ε is outside [0, ½).
    """
    check_positive(beta=beta)
    difference_P = beta * (pairs.chosen_P - pairs.rejected_P)
    loss_P = smoothed_nll(difference_P, label_smoothing)
    return pair_terms(pairs, loss_P, beta * pairs.chosen_P, beta * pairs.rejected_P)
