"""Exploratory preference optimisation (Xie et al. 2024, 2405.21046): online DPO and one term of optimism."""

from __future__ import annotations

import torch
from torch import Tensor

from accord.objectives.online_dpo import Pairs, online_dpo_loss
from accord.objectives.terms import add
from accord.records import Terms


def optimism(logps_CT: Tensor, mask_CT: Tensor, explore_P: Tensor) -> Terms:
    """Σ_p log π(y~_p | x), natural log, over answers y~ that the *reference* drew; a loss, so it is lowered.

    What the reference says already is made less likely, and so what it hardly ever says more. Summed over
    an answer's tokens: its pull grows with the answer's length. Metric: `logps/explored`.
    """
    logps_C = torch.where(mask_CT, logps_CT, 0.0).sum(1)
    total = logps_C[explore_P].sum()
    return Terms(total, {"logps/explored": (total.detach(), len(explore_P))})


def xpo_loss(
    logps_CT: Tensor,
    ref_logps_CT: Tensor,
    mask_CT: Tensor,
    pairs: Pairs,
    explore_P: Tensor,
    *,
    beta: float,
    alpha: float,
) -> Terms:
    """online_dpo_loss + α Σ_p log π(y~_p) (Xie 2024, algorithm 1); α = 0 is online DPO.

    Each pair is one answer of the policy and one of the reference, `explore_P` the latter's index. Divide by
    the number of pairs. The paper gives no number for α; too large a one ruins the reference's own answers.
    """
    preference = online_dpo_loss(logps_CT, ref_logps_CT, mask_CT, pairs, beta=beta)
    if alpha == 0:
        return preference
    return add(preference, optimism(logps_CT, mask_CT, explore_P), alpha)
