"""Proximal policy optimisation for language models.

Schulman et al. 2017 (arXiv 1707.06347) for the clipped objective, Schulman et al. 2016 (1506.02438) for
GAE, Ziegler et al. 2019 (1909.08593) for the KL penalty and its controller, and Huang et al. 2024 ("The N+
implementation details of RLHF with PPO", 2403.17031) for everything the papers leave out.

C completions, T tokens of the longest, N real tokens in all; `mask_CT` (boolean) marks the real tokens and
may have holes or padding on either side: what stands where it is false is never read, not even when NaN.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from accord.errors import ConfigError
from accord.objectives.kl import k1, k2
from accord.objectives.terms import add, same_shape
from accord.records import Terms


def policy_loss(
    logps_CT: Tensor, old_logps_CT: Tensor, advantages_CT: Tensor, mask_CT: Tensor, *, clip_range: float
) -> Terms:
    """Sum over tokens of max(-A ρ, -A clip(ρ, 1 - ε, 1 + ε)), ρ = π(a) / π_old(a) (Schulman 2017, eq. 7).

    Divide by the number of tokens for the usual token mean. The loss is linear in a positive scale of A, so
    a mean per sequence is the same loss of advantages divided by the completion's length.

    Metrics per token: `policy/approxkl_avg` is k2 of the old policy to the new one (biased, never
    negative; what OpenAI and TRL log under that name), `policy/clipfrac_avg` the share of tokens whose
    gradient the clip removed, `val/ratio` the mean ratio: exactly 1 before the first update.
    """
    same_shape(logps_CT=logps_CT, old_logps_CT=old_logps_CT, advantages_CT=advantages_CT, mask_CT=mask_CT)
    logps_N, old_logps_N = logps_CT.masked_select(mask_CT), old_logps_CT.masked_select(mask_CT)
    advantages_N = advantages_CT.masked_select(mask_CT)
    ratio_N = (logps_N - old_logps_N).exp()
    unclipped_N = -advantages_N * ratio_N
    clipped_N = -advantages_N * ratio_N.clamp(1 - clip_range, 1 + clip_range)
    loss = torch.maximum(unclipped_N, clipped_N).sum()

    tokens = mask_CT.sum()
    with torch.no_grad():
        metrics = {
            "loss/policy_avg": (loss.detach(), tokens),
            "policy/approxkl_avg": (k2(old_logps_N, logps_N).sum(), tokens),
            "policy/clipfrac_avg": ((clipped_N > unclipped_N).sum(), tokens),
            "val/ratio": (ratio_N.sum(), tokens),
        }
    return Terms(loss, metrics)


def value_loss(
    values_CT: Tensor, old_values_CT: Tensor, returns_CT: Tensor, mask_CT: Tensor, *, clip_range: float
) -> Terms:
    """Sum over tokens of ½ max((V - R)², (clip(V, V_old ± ε) - R)²) (N+ details; ε = inf never clips).

    Metrics per token: `loss/value_avg`, `val/clipfrac_avg`, and what `explained_variance` needs:
    `val/error` (V - R)², `returns/mean` and `returns/mean_square`.
    """
    same_shape(values_CT=values_CT, old_values_CT=old_values_CT, returns_CT=returns_CT, mask_CT=mask_CT)
    values_N, old_values_N = values_CT.masked_select(mask_CT), old_values_CT.masked_select(mask_CT)
    returns_N = returns_CT.masked_select(mask_CT)
    clipped_N = values_N.clamp(old_values_N - clip_range, old_values_N + clip_range)
    error_N = (values_N - returns_N).square()
    clipped_error_N = (clipped_N - returns_N).square()
    loss = torch.maximum(error_N, clipped_error_N).sum() / 2

    tokens = mask_CT.sum()
    with torch.no_grad():
        metrics = {
            "loss/value_avg": (loss.detach(), tokens),
            "val/clipfrac_avg": ((clipped_error_N > error_N).sum(), tokens),
            "val/error": (error_N.sum(), tokens),
            "returns/mean": (returns_N.sum(), tokens),
            "returns/mean_square": (returns_N.square().sum(), tokens),
        }
    return Terms(loss, metrics)


def ppo_loss(
    logps_CT: Tensor,
    values_CT: Tensor,
    *,
    old_logps_CT: Tensor,
    old_values_CT: Tensor,
    advantages_CT: Tensor,
    returns_CT: Tensor,
    mask_CT: Tensor,
    clip_range: float,
    value_clip_range: float,
    vf_coef: float,
) -> Terms:
    """policy_loss + c₁ value_loss (Schulman 2017, eq. 9 without the entropy bonus, which N+ sets to 0)."""
    policy = policy_loss(logps_CT, old_logps_CT, advantages_CT, mask_CT, clip_range=clip_range)
    value = value_loss(values_CT, old_values_CT, returns_CT, mask_CT, clip_range=value_clip_range)
    return add(policy, value, vf_coef)


def shape_rewards(
    scores_C: Tensor, logps_CT: Tensor, ref_logps_CT: Tensor, mask_CT: Tensor, kl_coef: float
) -> Tensor:
    """Reward per token: -β (log π - log π_ref), and the score on the last real token (Ziegler 2019, eq. 2).

    Zeros where masked. Raises ValueError for a completion without a real token: its score has no place.
    """
    same_shape(logps_CT=logps_CT, ref_logps_CT=ref_logps_CT, mask_CT=mask_CT)
    has_token_C = mask_CT.any(dim=1)
    same_shape(scores_C=scores_C, completions=has_token_C)
    empty = (~has_token_C).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"completions {empty} have no real token, so their scores have no place")
    rewards_CT = torch.where(mask_CT, -kl_coef * k1(logps_CT, ref_logps_CT), 0.0)
    last_C = mask_CT.shape[1] - 1 - mask_CT.flip(1).int().argmax(dim=1)  # argmax finds the first True
    return rewards_CT.scatter_add(1, last_C[:, None], scores_C[:, None].to(rewards_CT))


@torch.no_grad()
def gae(
    rewards_CT: Tensor, values_CT: Tensor, mask_CT: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman 2016, eq. 16): advantages and returns A + V, both (C, T).

    δ_t = r_t + γ V_{t+1} - V_t and A_t = δ_t + γλ A_{t+1}, along real tokens only; after the last one the
    value is 0, since a completion ends there. `values_CT[c, t]` is the value *before* token t is chosen.
    Zeros where masked; nothing is whitened here and nothing carries a gradient.
    """
    same_shape(rewards_CT=rewards_CT, values_CT=values_CT, mask_CT=mask_CT)
    advantages_CT = torch.zeros_like(values_CT)
    next_value_C = torch.zeros_like(values_CT[:, 0])
    next_advantage_C = torch.zeros_like(next_value_C)
    for t in reversed(range(values_CT.shape[1])):
        real_C = mask_CT[:, t]
        delta_C = rewards_CT[:, t] + gamma * next_value_C - values_CT[:, t]
        # A masked token is stepped over: what follows it belongs to the real token before it.
        next_advantage_C = torch.where(real_C, delta_C + gamma * lam * next_advantage_C, next_advantage_C)
        next_value_C = torch.where(real_C, values_CT[:, t], next_value_C)
        advantages_CT[:, t] = torch.where(real_C, next_advantage_C, 0.0)
    return advantages_CT, torch.where(mask_CT, advantages_CT + values_CT, 0.0)


def whiten(x_CT: Tensor, mask_CT: Tensor, *, shift_mean: bool = True) -> Tensor:
    """(x - mean) / sqrt(var + 1e-8) over all real tokens together; zeros where masked.

    The variance is the biased one (divided by N), as in OpenAI's code; TRL divides by N - 1. With
    `shift_mean=False` the mean is added back, which only rescales (used for rewards). Hand it the whole
    batch: whitening a part is another function of the data.
    """
    same_shape(x_CT=x_CT, mask_CT=mask_CT)
    x_N = x_CT.masked_select(mask_CT)
    mean, variance = x_N.mean(), x_N.var(correction=0)
    whitened_CT = (x_CT - mean) * (variance + 1e-8).rsqrt()
    return torch.where(mask_CT, whitened_CT if shift_mean else whitened_CT + mean, 0.0)


def missing_end_penalty(
    scores_C: Tensor, finished_C: Tensor, penalty: float, *, mode: Literal["replace", "subtract"] = "replace"
) -> Tensor:
    """Scores in which completions that never ended (boolean `finished_C` false) are punished.

    "replace": the score becomes -penalty (Ziegler 2019 and N+, with penalty 1), so that no content can
    make up for a missing end. "subtract": the score is lowered by `penalty` (TRL's `missing_eos_penalty`).
    Raises ConfigError for a negative penalty or another mode.
    """
    if penalty < 0:
        raise ConfigError(f"the penalty for a missing end must be at least 0, not {penalty}")
    if mode not in ("replace", "subtract"):
        raise ConfigError(f"unknown mode {mode!r} of the penalty for a missing end: use replace or subtract")
    same_shape(scores_C=scores_C, finished_C=finished_C)
    unfinished_C = torch.full_like(scores_C, -penalty) if mode == "replace" else scores_C - penalty
    return torch.where(finished_C, scores_C, unfinished_C)


def update_kl_coef(
    coef: float, observed_kl: float, *, target: float, n_episodes: int, horizon: int, clip: float = 0.2
) -> float:
    """The next β, steering the KL to `target` (Ziegler 2019, section 2.2).

    β ← β (1 + clip(KL / target - 1, ±0.2) · n_episodes / horizon). KL and target in nats per completion;
    `n_episodes` completions were sampled since the last update; `horizon` in completions too.
    Raises ConfigError when target or horizon is not positive.
    """
    if target <= 0 or horizon <= 0:
        raise ConfigError(f"the KL target ({target}) and its horizon ({horizon}) must be positive")
    error = min(max(observed_kl / target - 1, -clip), clip)
    return coef * (1 + error * n_episodes / horizon)


def ramped_target(target: float, progress: float, ramp_share: float) -> float:
    """The KL wanted when a share `progress` of the run is done: from 0 evenly up to `target` at `ramp_share`.

    Every run starts at KL 0. Against a constant target the controller of `update_kl_coef` spends the whole
    climb lowering β, and the policy arrives at the target without a leash. A share of 0 is a constant target.
    """
    return target if ramp_share == 0 else target * min(1.0, progress / ramp_share)


def explained_variance(error: float, returns_mean: float, returns_mean_square: float) -> float:
    """1 - E[(V - R)²] / Var[R], from the means of `value_loss`'s metrics; NaN where all returns are equal.

    1 is a perfect critic, 0 no better than a constant, below 0 worse than that.
    """
    variance = returns_mean_square - returns_mean**2
    return 1 - error / variance if variance > 0 else float("nan")
