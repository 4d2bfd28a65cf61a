"""REINFORCE for language models, without a critic: RLOO and REINFORCE++.

Williams 1992 for the gradient; Kool et al. 2019 and Ahmadian et al. 2024 (2402.14740) for RLOO, where a whole
completion is one action; Hu et al. 2025 (2501.03262) for REINFORCE++, where every token is one. In both the
KL to the reference (k1) is part of the reward: its expectation is exact, and nothing is differentiated.
Shapes and masks as in `ppo`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accord.objectives.credit import group_mean, leave_one_out
from accord.objectives.kl import k1
from accord.objectives.ppo import gae, shape_rewards, whiten
from accord.objectives.terms import same_shape
from accord.records import Terms


def minus_kl(
    scores_C: Tensor, logps_CT: Tensor, ref_logps_CT: Tensor, mask_CT: Tensor, *, kl_coef: float
) -> Tensor:
    """R = r - β Σ_t (log π - log π_ref), the reward of a whole answer; (C,)."""
    same_shape(logps_CT=logps_CT, ref_logps_CT=ref_logps_CT, mask_CT=mask_CT)
    return scores_C - kl_coef * torch.where(mask_CT, k1(logps_CT, ref_logps_CT), 0.0).sum(1)


@torch.no_grad()
def rloo_advantages(
    scores_C: Tensor,
    logps_CT: Tensor,
    ref_logps_CT: Tensor,
    mask_CT: Tensor,
    group_C: Tensor,
    *,
    kl_coef: float,
) -> Tensor:
    """R_i - mean(R of the other k - 1), with R of `minus_kl` (Ahmadian 2024); (C,).

    The baseline does not depend on the sample, so the policy gradient is unbiased. Raises ValueError for a
    group of one.
    """
    return leave_one_out(minus_kl(scores_C, logps_CT, ref_logps_CT, mask_CT, kl_coef=kl_coef), group_C)


def sequence_loss(
    logps_CT: Tensor, old_logps_CT: Tensor, advantages_C: Tensor, mask_CT: Tensor, *, clip_range: float
) -> Terms:
    """Sum over completions of max(-A ρ, -A clip(ρ, 1 - ε, 1 + ε)), ρ = π(y) / π_old(y) of the whole answer.

    Before the first update ρ = 1 and the gradient is REINFORCE's, -A ∇ log π(y); afterwards ρ corrects for
    the policy having moved, and the clip bounds how far one batch may move it (as TRL's RLOO does). Divide
    by the number of completions.

    Metrics: `loss/policy_avg`, `policy/clipfrac_avg` and `val/ratio` per completion; `policy/approxkl_avg`
    per token, as in `ppo.policy_loss`.
    """
    same_shape(logps_CT=logps_CT, old_logps_CT=old_logps_CT, mask_CT=mask_CT)
    same_shape(advantages_C=advantages_C, completions=mask_CT[:, 0])
    log_ratio_CT = torch.where(mask_CT, logps_CT, 0.0) - torch.where(mask_CT, old_logps_CT, 0.0)
    ratio_C = log_ratio_CT.sum(1).exp()
    unclipped_C = -advantages_C * ratio_C
    clipped_C = -advantages_C * ratio_C.clamp(1 - clip_range, 1 + clip_range)
    loss = torch.maximum(unclipped_C, clipped_C).sum()

    completions = torch.tensor(len(mask_CT))
    with torch.no_grad():
        metrics = {
            "loss/policy_avg": (loss.detach(), completions),
            "policy/approxkl_avg": (log_ratio_CT.square().sum() / 2, mask_CT.sum()),
            "policy/clipfrac_avg": ((clipped_C > unclipped_C).sum(), completions),
            "val/ratio": (ratio_C.sum(), completions),
        }
    return Terms(loss, metrics)


@torch.no_grad()
def reinforce_plus_plus_advantages(
    scores_C: Tensor,
    logps_CT: Tensor,
    ref_logps_CT: Tensor,
    mask_CT: Tensor,
    *,
    kl_coef: float,
    gamma: float = 1.0,
    group_C: Tensor | None = None,
) -> Tensor:
    """What is still to come, r - β Σ_{s>=t} KL_s, whitened over all tokens of the batch (Hu 2025); (C, T).

    With `group_C`, each score is first compared with the mean of its siblings (REINFORCE++-baseline). The
    whitening is over the batch and not over a group: a few siblings' deviation is a biased scale. Hand it
    the whole batch. The loss is `ppo.policy_loss`.
    """
    if group_C is not None:
        scores_C = group_mean(scores_C, group_C)
    rewards_CT = shape_rewards(scores_C, logps_CT, ref_logps_CT, mask_CT, kl_coef)
    # Without a critic (values 0) and with λ = 1, GAE is the discounted sum of the rewards to come.
    returns_CT, _ = gae(rewards_CT, torch.zeros_like(rewards_CT), mask_CT, gamma=gamma, lam=1.0)
    return whiten(returns_CT, mask_CT)
