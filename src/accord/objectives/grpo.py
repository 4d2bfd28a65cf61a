"""Group relative policy optimisation and its relatives: one clipped loss, and what each paper changed in it.

Shao et al. 2024 (DeepSeekMath, 2402.03300) for GRPO, Liu et al. 2025 (2503.20783) for Dr. GRPO, Yu et al.
2025 (2503.14476) for DAPO, Zheng et al. 2025 (2507.18071) for GSPO. A completion is compared with its
siblings, so there is no critic; the KL penalty stands in the loss, not in the reward.

C completions, T tokens of the longest; `mask_CT` (boolean) marks the real tokens, anywhere in a row: what
stands where it is false is never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from accord.errors import ConfigError
from accord.objectives.credit import group_mean, group_standardised
from accord.objectives.kl import k2, k3
from accord.objectives.terms import add, same_shape
from accord.records import Terms

LossType = Literal["grpo", "dapo", "dr_grpo"]
Level = Literal["token", "sequence"]
KlEstimator = Literal["k2", "k3", "k3_corrected"]


def grpo_advantages(
    scores_C: Tensor, group_C: Tensor, *, scale: Literal["group", "batch", "none"], eps: float = 1e-4
) -> Tensor:
    """r - mean(group), divided by the group's deviation (GRPO), the batch's, or nothing (Dr. GRPO); (C,).

    "batch" divides by the deviation of all scores, which is more stable than that of a few siblings and
    favours no prompt. Deviations divide by n - 1. Raises ValueError for a group of one.
    """
    if scale == "group":
        return group_standardised(scores_C, group_C, eps=eps)
    centred_C = group_mean(scores_C, group_C)
    return centred_C if scale == "none" else centred_C / (scores_C.std() + eps)


def varied_groups(scores_C: Tensor, group_C: Tensor) -> Tensor:
    """True for the completions of groups whose scores are not all equal (DAPO, section 3.2); (C,) boolean.

    The others have advantage 0: they pull the policy nowhere and only dilute a mean over the batch.
    """
    same_shape(scores_C=scores_C, group_C=group_C)
    _, index_C, size_G = group_C.unique(return_inverse=True, return_counts=True)
    empty_G = scores_C.new_zeros(len(size_G))
    highest_G = empty_G.scatter_reduce(0, index_C, scores_C, "amax", include_self=False)
    lowest_G = empty_G.scatter_reduce(0, index_C, scores_C, "amin", include_self=False)
    return (highest_G > lowest_G)[index_C]


def overlong_penalty(lengths_C: Tensor, *, max_length: int, buffer: int) -> Tensor:
    """What is taken from the scores of long completions: 0 to 1, linear over the last `buffer` tokens; (C,).

    DAPO, eq. 13 (with the sign turned): 0 up to max_length - buffer tokens, 1 from max_length on. Raises
    ConfigError unless 0 < buffer <= max_length.
    """
    if not 0 < buffer <= max_length:
        raise ConfigError(f"the overlong buffer ({buffer}) must be above 0 and at most {max_length} tokens")
    return ((lengths_C - (max_length - buffer)) / buffer).clamp(0, 1)


def completion_weights(mask_CT: Tensor, loss_type: LossType) -> Tensor:
    """What each completion's tokens weigh in the sum, (C,); `loss_count` is what the sum is divided by.

    "grpo": 1/|y|, so every completion counts the same, and a token in a long one less. "dapo" and "dr_grpo":
    1. Raises ConfigError for another name.
    """
    if loss_type not in ("grpo", "dapo", "dr_grpo"):
        raise ConfigError(f"unknown loss_type {loss_type!r}: use grpo, dapo or dr_grpo")
    lengths_C = mask_CT.sum(1)
    weights_C = torch.ones(len(mask_CT), dtype=torch.float64, device=mask_CT.device)
    return weights_C / lengths_C.clamp(min=1) if loss_type == "grpo" else weights_C


def loss_count(lengths: Sequence[int], loss_type: LossType, *, max_length: int) -> float:
    """The divisor for the whole step, from the lengths of all its completions.

    "grpo": the number of completions (mean of means, Shao eq. 3). "dapo": the number of tokens (Yu eq. 8).
    "dr_grpo": completions times `max_length`, the same whatever the policy answers, so that length has no
    say in the gradient (Liu, section 3.2).
    """
    if loss_type == "dapo":
        return float(sum(lengths))
    return float(len(lengths) * (max_length if loss_type == "dr_grpo" else 1))


def clipped_loss(
    logps_CT: Tensor,
    old_logps_CT: Tensor,
    advantages_CT: Tensor,
    mask_CT: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    level: Level = "token",
    weights_C: Tensor | None = None,
) -> Terms:
    """Σ_c w_c Σ_t max(-A ρ, -A clip(ρ, 1 - ε_low, 1 + ε_high)).

    level "token": ρ = π(a_t) / π_old(a_t). With ε_low = ε_high that is PPO's loss; a higher ε_high (DAPO's
    clip-higher) lets unlikely tokens grow. level "sequence" (GSPO, eq. 7): every token has the ratio of its
    completion, (π(y) / π_old(y))^(1/|y|), so the clip takes completions as a whole; its ε are far smaller
    (3e-4 and 4e-4 in the paper). w = 1 unless given.

    Metrics per token: `policy/approxkl_avg`, `policy/clipfrac_avg`, `val/ratio` as in `ppo.policy_loss`;
    `loss/policy_avg` is the weighted mean.
    """
    same_shape(logps_CT=logps_CT, old_logps_CT=old_logps_CT, advantages_CT=advantages_CT, mask_CT=mask_CT)
    advantages_CT, weights_CT = _real(advantages_CT, mask_CT), _weights(mask_CT, weights_C, logps_CT)
    log_ratio_CT = _real(logps_CT, mask_CT) - _real(old_logps_CT, mask_CT)
    tokens_CT = log_ratio_CT.detach()
    if level == "sequence":
        mean_C = log_ratio_CT.sum(1) / mask_CT.sum(1).clamp(min=1)
        log_ratio_CT = torch.where(mask_CT, mean_C[:, None], 0.0)
    ratio_CT = log_ratio_CT.exp()
    unclipped_CT = -advantages_CT * ratio_CT
    clipped_CT = -advantages_CT * ratio_CT.clamp(1 - clip_low, 1 + clip_high)
    loss = (weights_CT * torch.maximum(unclipped_CT, clipped_CT)).sum()

    tokens = mask_CT.sum()
    with torch.no_grad():
        metrics = {
            "loss/policy_avg": (loss.detach(), weights_CT.sum()),
            "policy/approxkl_avg": (tokens_CT.square().sum() / 2, tokens),
            "policy/clipfrac_avg": ((clipped_CT > unclipped_CT).sum(), tokens),
            "val/ratio": ((ratio_CT * mask_CT).sum(), tokens),
        }
    return Terms(loss, metrics)


def kl_loss(
    logps_CT: Tensor,
    ref_logps_CT: Tensor,
    old_logps_CT: Tensor,
    mask_CT: Tensor,
    *,
    estimator: KlEstimator,
    weights_C: Tensor | None = None,
) -> Terms:
    """Σ_c w_c Σ_t of a KL estimate that is differentiated, the tokens being drawn from π_old.

    Which divergence its gradient lowers, on-policy (π = π_old) and token by token:

    - "k3" (GRPO, Shao eq. 4): KL(π_ref || π), although its value estimates KL(π || π_ref);
    - "k2": KL(π || π_ref), although its value is biased;
    - "k3_corrected": ρ k3 with ρ = π / π_old differentiated too. Value and gradient are both those of
      KL(π || π_ref), also after π has left π_old (DeepSeek-V3.2, 2512.02556; TRL's bias correction).

    None of them sees that a token changes which tokens can follow: the gradient is that of each position's
    divergence with the prefixes held fixed, and so the optimum is near that of E[r] - β KL but not the same.
    KL in the reward (`reinforce.minus_kl`) has no such blind spot. Metric: `loss/kl_avg`,
    the weighted mean per token, in nats. Raises ConfigError for another estimator.
    """
    same_shape(logps_CT=logps_CT, ref_logps_CT=ref_logps_CT, old_logps_CT=old_logps_CT, mask_CT=mask_CT)
    if estimator not in ("k2", "k3", "k3_corrected"):
        raise ConfigError(f"unknown KL estimator {estimator!r} for a loss: use k2, k3 or k3_corrected")
    logps_CT, ref_logps_CT = _real(logps_CT, mask_CT), _real(ref_logps_CT, mask_CT)
    kl_CT = k2(logps_CT, ref_logps_CT) if estimator == "k2" else k3(logps_CT, ref_logps_CT)
    if estimator == "k3_corrected":
        kl_CT = (logps_CT - _real(old_logps_CT, mask_CT)).exp() * kl_CT
    weights_CT = _weights(mask_CT, weights_C, logps_CT)
    loss = (weights_CT * kl_CT).sum()
    return Terms(loss, {"loss/kl_avg": (loss.detach(), weights_CT.sum())})


def grpo_loss(
    logps_CT: Tensor,
    *,
    old_logps_CT: Tensor,
    ref_logps_CT: Tensor,
    advantages_CT: Tensor,
    mask_CT: Tensor,
    clip_low: float,
    clip_high: float,
    level: Level,
    loss_type: LossType,
    kl_coef: float,
    kl_estimator: KlEstimator,
) -> Terms:
    """clipped_loss + β kl_loss (Shao 2024, eq. 3), weighted by `loss_type`; divide by `loss_count`."""
    weights_C = completion_weights(mask_CT, loss_type)
    policy = clipped_loss(
        logps_CT,
        old_logps_CT,
        advantages_CT,
        mask_CT,
        clip_low=clip_low,
        clip_high=clip_high,
        level=level,
        weights_C=weights_C,
    )
    if kl_coef == 0:
        return policy
    leash = kl_loss(
        logps_CT, ref_logps_CT, old_logps_CT, mask_CT, estimator=kl_estimator, weights_C=weights_C
    )
    return add(policy, leash, kl_coef)


def _real(x_CT: Tensor, mask_CT: Tensor) -> Tensor:
    return torch.where(mask_CT, x_CT, 0.0)


def _weights(mask_CT: Tensor, weights_C: Tensor | None, like: Tensor) -> Tensor:
    """Each real token's weight, zeros elsewhere, (C, T)."""
    if weights_C is None:
        return mask_CT.to(like.dtype)
    same_shape(weights_C=weights_C, completions=mask_CT[:, 0])
    return torch.where(mask_CT, weights_C.to(like)[:, None], 0.0)
