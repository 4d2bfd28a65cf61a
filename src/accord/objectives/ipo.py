"""Identity preference optimisation (Azar et al. 2024, "A general theoretical paradigm", 2310.12036)."""

from __future__ import annotations

from typing import Literal

from accord.errors import ConfigError
from accord.objectives.pairs import PairLogps, check_positive, pair_terms
from accord.records import Terms


def ipo_loss(pairs: PairLogps, *, beta: float, form: Literal["sum", "mean"] = "sum") -> Terms:
    """Σ_p w (h - 1/(2τ))², τ = `beta` (Azar 2024, eq. 17).

    "sum" is the paper's: h is the difference of log π/π_ref of whole answers. "mean" divides each answer's
    log-ratio by its length in tokens first, as TRL does: with the same τ that is another objective, whose
    answers may move as far per token as the paper's may in all.

    Unlike DPO's, the optimum on a sure label is finite: h = 1/(2τ). Metrics: see `pairs.pair_terms`; the
    implicit reward is τ times the log-ratio that h is made of. Raises ConfigError when τ is not positive or
    the form unknown.
    """
    check_positive(beta=beta)
    chosen_P, rejected_P = pairs.log_ratios
    if form == "mean":
        chosen_P, rejected_P = chosen_P / pairs.chosen_tokens_P, rejected_P / pairs.rejected_tokens_P
    elif form != "sum":
        raise ConfigError(f"unknown form {form!r} of IPO: use sum (the paper's) or mean (TRL's)")
    loss_P = (chosen_P - rejected_P - 1 / (2 * beta)).square()
    return pair_terms(pairs, loss_P, beta * chosen_P, beta * rejected_P)
