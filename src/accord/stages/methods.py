"""The on-policy methods. Each is a way to give credit and a loss, and the table says which.

Credit turns an iteration's rollouts into advantages (or pairs) once; the loss turns them, and what the policy
says now, into a gradient, a micro-batch at a time. The arithmetic of both is in `accord.objectives`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from accord.config import (
    GrpoConfig,
    OnlineConfig,
    OnlineDpoConfig,
    PpoConfig,
    PpoLagrangianConfig,
    ReinforcePlusPlusConfig,
    RlooConfig,
    XpoConfig,
)
from accord.errors import ConfigError, NumericsError
from accord.objectives.credit import to_tokens
from accord.objectives.grpo import grpo_advantages, grpo_loss, loss_count, overlong_penalty, varied_groups
from accord.objectives.importance import importance_weights
from accord.objectives.online_dpo import Pairs, best_and_worst, better_and_worse, online_dpo_loss
from accord.objectives.ppo import gae, policy_loss, ppo_loss, shape_rewards, whiten
from accord.objectives.reinforce import (
    minus_kl,
    reinforce_plus_plus_advantages,
    rloo_advantages,
    sequence_loss,
)
from accord.objectives.safe import lagrangian_advantages
from accord.objectives.xpo import xpo_loss
from accord.records import Terms
from accord.stages.rollouts import Part, Rollouts
from accord.training.run import Metrics


@dataclass(frozen=True)
class Advantages:
    """Credit per token."""

    advantages_CT: Tensor
    returns_CT: Tensor  # what a critic should have said; zeros without one
    keep_C: Tensor  # bool: the answers that the update uses
    metrics: Metrics = field(default_factory=dict)
    cost_returns_CT: Tensor | None = None  # of a cost's own critic


@dataclass(frozen=True)
class Comparisons:
    """Credit as pairs of answers, by their places among all answers of the iteration."""

    pairs: Pairs
    explore_P: Tensor  # the pairs' answers that the reference drew (XPO); empty otherwise
    keep_C: Tensor
    metrics: Metrics = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One micro-batch of an update, as a loss sees it. `credit` is what the method's own credit returned."""

    config: Any
    rollouts: Rollouts
    credit: Any
    kl_coef: float
    part: Part
    logps_CT: Tensor  # the policy's now, with its gradient
    values_CT: Tensor | None  # the critic's, where it is trained together with the policy


@dataclass(frozen=True)
class Method:
    """A row of the table below.

    `count` is what a step's loss is divided by, from the lengths of all its answers. `start` names a metric
    and the value that it must have at the very first step.
    """

    name: str
    label: str
    credit: Callable[[Any, Rollouts, float], Advantages | Comparisons]  # (settings, rollouts, KL coefficient)
    loss: Callable[[Step], Terms]
    count: Callable[[Any, Sequence[int]], float]
    start: tuple[str, float] = ("val/ratio", 1.0)


# ------------------------------------------------------------------------------------------------ credit


def ppo_credit(c: PpoConfig, r: Rollouts, kl_coef: float) -> Advantages:
    rewards_CT = shape_rewards(r.rewards_C, r.logps_CT, r.ref_logps_CT, r.mask_CT, kl_coef)
    if c.whiten_rewards:
        rewards_CT = whiten(rewards_CT, r.mask_CT, shift_mean=False)
    advantages_CT, returns_CT = gae(rewards_CT, r.values_CT, r.mask_CT, gamma=c.gamma, lam=c.lam)
    cost_returns_CT = None
    if r.costs_C is not None and r.cost_values_CT is not None:
        # All of the KL stays with the reward: then λ prices the cost in E[R] - β KL, which β promises.
        costs_CT = shape_rewards(r.costs_C, r.logps_CT, r.ref_logps_CT, r.mask_CT, 0.0)
        cost_advantages_CT, cost_returns_CT = gae(
            costs_CT, r.cost_values_CT, r.mask_CT, gamma=c.gamma, lam=c.lam
        )
        advantages_CT = lagrangian_advantages(advantages_CT, cost_advantages_CT, r.multiplier)
    whitened_CT = whiten(advantages_CT, r.mask_CT)
    centred(whitened_CT[r.mask_CT])
    credit = _advantages(c, r, whitened_CT, returns_CT=returns_CT)
    return replace(credit, cost_returns_CT=cost_returns_CT)


def grpo_rewards(c: GrpoConfig, r: Rollouts, kl_coef: float) -> Tensor:
    """The scores as they are compared within a group, after all that is taken from them; (C,)."""
    rewards_C = r.rewards_C
    if c.overlong_buffer:
        lengths_C = r.mask_CT.sum(1)
        over_C = overlong_penalty(lengths_C, max_length=c.max_new_tokens, buffer=c.overlong_buffer)
        rewards_C = rewards_C - c.overlong_penalty * over_C.to(rewards_C)
    if c.use_kl_in_reward:
        rewards_C = minus_kl(rewards_C, r.logps_CT, r.ref_logps_CT, r.mask_CT, kl_coef=kl_coef)
    return rewards_C


def useful_groups(c: GrpoConfig, r: Rollouts, kl_coef: float) -> list[int]:
    """The groups whose rewards are not all equal: only they have a gradient."""
    return r.group_C[varied_groups(grpo_rewards(c, r, kl_coef), r.group_C)].unique().tolist()


def grpo_credit(c: GrpoConfig, r: Rollouts, kl_coef: float) -> Advantages:
    rewards_C, keep_C = grpo_rewards(c, r, kl_coef), torch.ones_like(r.own_C)
    if c.drop_equal_groups:
        keep_C = keep_C & varied_groups(rewards_C, r.group_C)
    if c.mask_truncated_completions:
        keep_C = keep_C & r.finished_C
    advantages_C = grpo_advantages(rewards_C, r.group_C, scale=c.scale_rewards)
    centred_groups(advantages_C, rewards_C, r.group_C)
    level = c.importance_sampling_level
    return _advantages(c, r, to_tokens(advantages_C, r.mask_CT), keep_C=keep_C, level=level)


def rloo_credit(c: RlooConfig, r: Rollouts, kl_coef: float) -> Advantages:
    advantages_C = rloo_advantages(
        r.rewards_C, r.logps_CT, r.ref_logps_CT, r.mask_CT, r.group_C, kl_coef=kl_coef
    )
    centred_groups(advantages_C, r.rewards_C, r.group_C)
    return _advantages(c, r, to_tokens(advantages_C, r.mask_CT), level="sequence")


def reinforce_plus_plus_credit(c: ReinforcePlusPlusConfig, r: Rollouts, kl_coef: float) -> Advantages:
    advantages_CT = reinforce_plus_plus_advantages(
        r.rewards_C,
        r.logps_CT,
        r.ref_logps_CT,
        r.mask_CT,
        kl_coef=kl_coef,
        gamma=c.gamma,
        group_C=r.group_C if c.baseline == "group" else None,
    )
    centred(advantages_CT[r.mask_CT])
    return _advantages(c, r, advantages_CT)


def online_dpo_credit(c: OnlineDpoConfig, r: Rollouts, kl_coef: float) -> Comparisons:
    return _comparisons(r, best_and_worst(r.rewards_C, r.group_C))


def xpo_credit(c: XpoConfig, r: Rollouts, kl_coef: float) -> Comparisons:
    """The policy's i-th answer to a prompt against the reference's i-th."""
    own_P, theirs_P = r.own_C.nonzero().flatten(), (~r.own_C).nonzero().flatten()
    return _comparisons(r, better_and_worse(r.rewards_C, own_P, theirs_P))


def centred(advantages_N: Tensor, slack: float = 1e-3) -> None:
    """What a method calls good and what it calls bad must cancel out. Raises NumericsError if it does not."""
    mean, size = float(advantages_N.mean()), float(advantages_N.abs().mean())
    if len(advantages_N) and not abs(mean) <= slack * (1 + size):  # NaN, too
        raise NumericsError(
            f"the advantages' mean is {mean:.2e}, with a mean size of {size:.2e}, and must be 0; look for "
            "scores that are not finite or enormous, else this is a defect"
        )


def centred_groups(advantages_C: Tensor, rewards_C: Tensor, group_C: Tensor) -> None:
    """The same, without groups of equal rewards: their rounding is divided by a deviation near nothing."""
    told_C = varied_groups(rewards_C, group_C) | ~advantages_C.isfinite()
    centred(advantages_C[told_C], slack=0.1)


def _advantages(
    c: Any,
    r: Rollouts,
    advantages_CT: Tensor,
    *,
    returns_CT: Tensor | None = None,
    keep_C: Tensor | None = None,
    level: Literal["token", "sequence"] = "token",
) -> Advantages:
    """With the advantages' mean and deviation, and weighted where the sampler is not trusted."""
    keep_C = torch.ones_like(r.own_C) if keep_C is None else keep_C
    used_N = advantages_CT[r.mask_CT & keep_C[:, None]]
    metrics = {"completions/used": float(keep_C.double().mean())}
    if len(used_N):
        metrics |= {
            "objective/advantages": float(used_N.mean()),
            "objective/advantages_std": float(used_N.std(correction=0)),
        }
    if c.importance_sampling_cap is not None:
        cap = c.importance_sampling_cap
        weights_CT = importance_weights(r.logps_CT, r.sampler_logps_CT, r.mask_CT, cap=cap, level=level)
        # All our losses are linear in positive scales of the advantages.
        advantages_CT = advantages_CT * weights_CT
        weights_N = weights_CT[r.mask_CT]
        metrics["policy/importance_avg"] = float(weights_N.mean())
        metrics["policy/importance_clipfrac"] = float((weights_N >= cap).double().mean())
    returns_CT = torch.zeros_like(advantages_CT) if returns_CT is None else returns_CT
    return Advantages(advantages_CT, returns_CT, keep_C, metrics)


def _comparisons(r: Rollouts, pairs: Pairs) -> Comparisons:
    keep_C = torch.zeros_like(r.own_C)
    keep_C[torch.cat(pairs)] = True
    explore_C = keep_C & ~r.own_C
    metrics = {"completions/used": float(keep_C.double().mean())}
    return Comparisons(pairs, explore_C.nonzero().flatten(), keep_C, metrics)


# -------------------------------------------------------------------------------------------------- loss


def watch(logps_CT: Tensor, mask_CT: Tensor) -> None:
    """Watch the backward pass: it raises NumericsError if anything but tokens of answers gets a gradient."""

    def check_gradient(gradient_CT: Tensor) -> None:
        if bool((gradient_CT.masked_fill(mask_CT, 0) != 0).any()):
            raise NumericsError(
                "the loss has a gradient at something that is no token of an answer: a defect"
            )

    if logps_CT.requires_grad:
        logps_CT.register_hook(check_gradient)


def ppo_terms(s: Step) -> Terms:
    r, take = s.rollouts, s.part.take
    if s.values_CT is None:
        return clipped_terms(s)
    return ppo_loss(
        s.logps_CT,
        s.values_CT,
        old_logps_CT=take(r.logps_CT),
        old_values_CT=take(r.values_CT),
        advantages_CT=take(s.credit.advantages_CT),
        returns_CT=take(s.credit.returns_CT),
        mask_CT=s.part.batch.mask_CT,
        clip_range=s.config.clip_range,
        value_clip_range=s.config.value_clip_range,
        vf_coef=s.config.vf_coef,
    )


def clipped_terms(s: Step) -> Terms:
    old_logps_CT, advantages_CT = s.part.take(s.rollouts.logps_CT), s.part.take(s.credit.advantages_CT)
    mask_CT = s.part.batch.mask_CT
    return policy_loss(s.logps_CT, old_logps_CT, advantages_CT, mask_CT, clip_range=s.config.clip_range)


def grpo_terms(s: Step) -> Terms:
    c: GrpoConfig = s.config
    return grpo_loss(
        s.logps_CT,
        old_logps_CT=s.part.take(s.rollouts.logps_CT),
        ref_logps_CT=s.part.take(s.rollouts.ref_logps_CT),
        advantages_CT=s.part.take(s.credit.advantages_CT),
        mask_CT=s.part.batch.mask_CT,
        clip_low=c.epsilon,
        clip_high=c.epsilon if c.epsilon_high is None else c.epsilon_high,
        level=c.importance_sampling_level,
        loss_type=c.loss_type,
        kl_coef=0.0 if c.use_kl_in_reward else s.kl_coef,
        kl_estimator=c.kl_estimator,
    )


def rloo_terms(s: Step) -> Terms:
    # An answer's tokens all carry its advantage, and every answer has a first token.
    advantages_C = s.part.take(s.credit.advantages_CT)[:, 0]
    old_logps_CT, mask_CT = s.part.take(s.rollouts.logps_CT), s.part.batch.mask_CT
    return sequence_loss(s.logps_CT, old_logps_CT, advantages_C, mask_CT, clip_range=s.config.clip_range)


def online_dpo_terms(s: Step) -> Terms:
    ref_logps_CT, mask_CT = s.part.take(s.rollouts.ref_logps_CT), s.part.batch.mask_CT
    pairs, _ = _places(s)
    return online_dpo_loss(s.logps_CT, ref_logps_CT, mask_CT, pairs, beta=s.config.beta)


def xpo_terms(s: Step) -> Terms:
    ref_logps_CT, mask_CT = s.part.take(s.rollouts.ref_logps_CT), s.part.batch.mask_CT
    pairs, explore_P = _places(s)
    weights = {"beta": s.config.beta, "alpha": s.config.alpha}
    return xpo_loss(s.logps_CT, ref_logps_CT, mask_CT, pairs, explore_P, **weights)


def _places(s: Step) -> tuple[Pairs, Tensor]:
    """This part's pairs and the reference's answers among them, by their places in the part.

    A group is never cut, so both answers of a pair are in one part.
    """
    place_C = torch.full((len(s.rollouts.mask_CT),), -1)
    place_C[s.part.rows_C] = torch.arange(len(s.part.rows_C))
    chosen_P, rejected_P, explore_P = (place_C[where_P] for where_P in (*s.credit.pairs, s.credit.explore_P))
    here_P = chosen_P >= 0
    return (chosen_P[here_P], rejected_P[here_P]), explore_P[explore_P >= 0]


# ------------------------------------------------------------------------------------------------- count


def per_token(c: Any, lengths: Sequence[int]) -> float:
    return sum(lengths)


def per_answer(c: Any, lengths: Sequence[int]) -> float:
    return len(lengths)


def per_pair(c: Any, lengths: Sequence[int]) -> float:
    return len(lengths) / 2


def by_loss_type(c: GrpoConfig, lengths: Sequence[int]) -> float:
    return loss_count(lengths, c.loss_type, max_length=c.max_new_tokens)


METHODS: Mapping[type[OnlineConfig], Method] = {
    PpoConfig: Method("ppo", "PPO", ppo_credit, ppo_terms, per_token),
    PpoLagrangianConfig: Method("ppo-lagrangian", "PPO-Lagrangian", ppo_credit, ppo_terms, per_token),
    GrpoConfig: Method("grpo", "GRPO", grpo_credit, grpo_terms, by_loss_type),
    RlooConfig: Method("rloo", "RLOO", rloo_credit, rloo_terms, per_answer),
    ReinforcePlusPlusConfig: Method(
        "reinforce++", "REINFORCE++", reinforce_plus_plus_credit, clipped_terms, per_token
    ),
    OnlineDpoConfig: Method(
        "online-dpo", "online DPO", online_dpo_credit, online_dpo_terms, per_pair, ("rewards/margins", 0.0)
    ),
    XpoConfig: Method("xpo", "XPO", xpo_credit, xpo_terms, per_pair, ("rewards/margins", 0.0)),
}


def check(config: OnlineConfig) -> None:
    """Raise ConfigError for settings that contradict one another, before anything is loaded."""
    if isinstance(config, GrpoConfig) and config.overlong_buffer > config.max_new_tokens:
        raise ConfigError(
            f"overlong_buffer = {config.overlong_buffer} is longer than max_new_tokens = "
            f"{config.max_new_tokens}; lower it"
        )
    if isinstance(config, GrpoConfig) and config.resample_rounds and not config.drop_equal_groups:
        raise ConfigError("resample_rounds replaces groups that drop_equal_groups leaves out; set that, too")
    if isinstance(config, PpoConfig) and config.cost_model is not None and config.critic == "policy":
        raise ConfigError("cost_model needs a critic on frozen features: set critic to reward or reference")
    if isinstance(config, ReinforcePlusPlusConfig) and config.baseline == "group" and config.k < 2:
        raise ConfigError("baseline: group compares answers to one prompt, so k must be at least 2")
