"""Odds ratio preference optimisation (Hong et al. 2024, 2403.07691): no reference, one pass with SFT."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from accord.objectives.pairs import PairLogps, check_positive, pair_terms
from accord.records import Terms


def orpo_loss(pairs: PairLogps, *, beta: float) -> Terms:
    """Σ_p -w λ log σ(log odds(y_w) - log odds(y_l)), λ = `beta` (TRL's name), eq. 7 of Hong 2024.

    odds(y) = p / (1 - p) with p = exp(log π(y) / |y|), the likelihood per token. The paper's whole loss
    (eq. 6) adds the likelihood of the chosen answer with weight 1: `pairs.chosen_nll`.

    Metrics: see `pairs.pair_terms`; the implicit reward is λ log π per token (as TRL has it), which orders
    answers as the odds do. Raises ConfigError when λ is not positive.
    """
    check_positive(beta=beta)
    chosen_P, rejected_P = pairs.mean_logps
    ratio_P = log_odds(chosen_P) - log_odds(rejected_P)
    return pair_terms(pairs, -beta * logsigmoid(ratio_P), beta * chosen_P, beta * rejected_P)


def log_odds(logp_P: Tensor) -> Tensor:
    """log p/(1 - p) from log p <= 0, without forming p or 1 - p.

    A rounding step below zero keeps it finite, with its gradient, where p has been rounded to exactly 1.
    """
    logp_P = logp_P - torch.finfo(logp_P.dtype).eps
    return logp_P - torch.log(-torch.expm1(logp_P))
