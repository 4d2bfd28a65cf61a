"""When the sampler's probabilities are not the trainer's: truncated importance sampling.

Sampler and trainer may round, batch or quantise differently, so that what was sampled is not quite on-policy.
Weights π_trainer / π_sampler make up for it; cutting them at a cap bounds their variance (Ionides 2008;
Espeholt et al. 2018 (IMPALA, 1802.01561); Yao et al. 2025, "Your efficient RL framework secretly brings you
off-policy RL training"). Shapes and masks as in `ppo`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from accord.errors import ConfigError
from accord.objectives.kl import k3
from accord.objectives.terms import same_shape


@torch.no_grad()
def importance_weights(
    logps_CT: Tensor,
    sampler_logps_CT: Tensor,
    mask_CT: Tensor,
    *,
    cap: float,
    level: Literal["token", "sequence"] = "token",
) -> Tensor:
    """min(π_trainer / π_sampler, cap) on each real token, zeros elsewhere; (C, T), without a gradient.

    Both log-probabilities are of one policy, before the update. "sequence" multiplies the ratios of a
    completion before it cuts: right in expectation without the cut, but the product strays far from 1 for
    long answers; "token" stays near 1 and ignores what earlier tokens did to the odds of later ones. A loss
    that is linear in positive scales of the advantages takes the weights as a factor on them. Raises
    ConfigError for a cap below 1, which would shrink what needs no correction.
    """
    same_shape(logps_CT=logps_CT, sampler_logps_CT=sampler_logps_CT, mask_CT=mask_CT)
    if cap < 1:
        raise ConfigError(f"the cap of importance weights must be at least 1, not {cap}")
    log_ratio_CT = torch.where(mask_CT, logps_CT - sampler_logps_CT, 0.0)
    if level == "sequence":
        log_ratio_CT = log_ratio_CT.sum(1, keepdim=True).expand_as(log_ratio_CT)
    return torch.where(mask_CT, log_ratio_CT.exp().clamp(max=cap), 0.0)


@torch.no_grad()
def mismatch_kl(logps_CT: Tensor, sampler_logps_CT: Tensor, mask_CT: Tensor) -> Tensor:
    """KL(sampler || trainer) per token, in nats: the mean of k3 over the sampler's own tokens; a scalar."""
    same_shape(logps_CT=logps_CT, sampler_logps_CT=sampler_logps_CT, mask_CT=mask_CT)
    return k3(sampler_logps_CT[mask_CT], logps_CT[mask_CT]).mean()
