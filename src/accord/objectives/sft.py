"""Supervised fine-tuning: maximum likelihood of demonstrations."""

from __future__ import annotations

import torch
from torch import Tensor

from accord.objectives.terms import same_shape
from accord.records import Terms


def nll(logps_CT: Tensor, mask_CT: Tensor, weight_C: Tensor | None = None) -> Terms:
    """-Σ_c w_c Σ_t log π(a_t), natural log, over the real tokens of C completions; w = 1 unless given.

    Divide by the number of tokens for the usual token mean. The metric `loss/nll_avg` is the unweighted
    mean per token, so it stays comparable when weights change; its exponential is the perplexity.
    """
    same_shape(logps_CT=logps_CT, mask_CT=mask_CT)
    nll_C = -torch.where(mask_CT, logps_CT, 0.0).sum(dim=1)
    if weight_C is None:
        loss = nll_C.sum()
    else:
        same_shape(weight_C=weight_C, completions=nll_C)
        loss = (weight_C * nll_C).sum()
    return Terms(loss, {"loss/nll_avg": (nll_C.detach().sum(), mask_CT.sum())})
