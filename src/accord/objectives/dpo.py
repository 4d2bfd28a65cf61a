"""Direct preference optimisation, and its two forms for labels that may be wrong.

Rafailov et al. 2023 (2305.18290) for DPO, Mitchell 2023 ("A note on DPO with noisy preferences") for the
conservative form, Chowdhury et al. 2024 (2403.00409) for the robust one, Amini et al. 2024 (2402.10571) for
the offset. h = log π(y_w)/π_ref(y_w) - log π(y_l)/π_ref(y_l) throughout.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from accord.objectives.pairs import PairLogps, check_positive, check_smoothing, pair_terms, smoothed_nll
from accord.records import Terms


def dpo_loss(pairs: PairLogps, *, beta: float, margin_coef: float = 0.0) -> Terms:
    """Σ_p -w log σ(β h - m) (Rafailov 2023, eq. 7; with the offset m of Amini 2024).

    m is `margin_coef` times the pair's margin, 0 by default. On labels drawn from Bradley-Terry the optimum
    is π ∝ π_ref exp(r/β); on one sure label h grows without end. Metrics: see `pairs.pair_terms`; the
    implicit reward is β log π/π_ref. Raises ConfigError when β is not positive.
    """
    return cdpo_loss(pairs, beta=beta, margin_coef=margin_coef, label_smoothing=0.0)


def cdpo_loss(pairs: PairLogps, *, beta: float, label_smoothing: float, margin_coef: float = 0.0) -> Terms:
    """Conservative DPO: Σ_p w [-(1 - ε) log σ(d) - ε log σ(-d)], d = β h - m, ε = `label_smoothing`.

    The optimum on a sure label is d = logit(1 - ε), which is finite. (TRL's "sigmoid" takes a
    `label_smoothing` and ignores it.) All else as in `dpo_loss`; ConfigError too when ε is outside [0, ½).
    """
    difference_P = _difference(pairs, beta, margin_coef)
    return _terms(pairs, smoothed_nll(difference_P, label_smoothing), beta)


def robust_dpo_loss(
    pairs: PairLogps, *, beta: float, label_smoothing: float, margin_coef: float = 0.0
) -> Terms:
    """Σ_p w [-(1 - ε) log σ(d) + ε log σ(-d)] / (1 - 2ε), d = β h - m (Chowdhury 2024).

    Where each label was flipped with probability ε, its mean is DPO's loss on the true labels: unbiased, at
    the price of variance. For large d a pair's loss falls like -ε d / (1 - 2ε), so it has no lower bound and
    the optimum on one sure label is infinite. All else as in `cdpo_loss`.
    """
    check_smoothing(label_smoothing)
    difference_P = _difference(pairs, beta, margin_coef)
    right_P, wrong_P = logsigmoid(difference_P), logsigmoid(-difference_P)
    loss_P = (-(1 - label_smoothing) * right_P + label_smoothing * wrong_P) / (1 - 2 * label_smoothing)
    return _terms(pairs, loss_P, beta)


def _difference(pairs: PairLogps, beta: float, margin_coef: float) -> Tensor:
    check_positive(beta=beta)
    chosen_P, rejected_P = pairs.log_ratios
    difference_P = beta * (chosen_P - rejected_P)
    return difference_P if pairs.margin_P is None else difference_P - margin_coef * pairs.margin_P


def _terms(pairs: PairLogps, loss_P: Tensor, beta: float) -> Terms:
    chosen_P, rejected_P = pairs.log_ratios
    return pair_terms(pairs, loss_P, beta * chosen_P, beta * rejected_P)
