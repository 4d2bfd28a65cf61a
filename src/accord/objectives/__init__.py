"""The mathematics: pure functions on tensors, one paper a file.

A loss returns `Terms`, sums and never means; the engine divides once, by a count over the whole step.
The tables below are the only places where a name becomes a function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from accord.objectives import credit, kl
from accord.objectives.bradley_terry import bradley_terry_loss
from accord.objectives.cpo import cpo_loss
from accord.objectives.dpo import cdpo_loss, dpo_loss, robust_dpo_loss
from accord.objectives.ipo import ipo_loss
from accord.objectives.orpo import orpo_loss
from accord.objectives.rao_kupper import rao_kupper_loss
from accord.objectives.simpo import simpo_loss
from accord.records import Terms

# Estimates of KL(pi || pi_ref) per token from (logps, ref_logps).
KL_ESTIMATORS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": kl.k1, "k2": kl.k2, "k3": kl.k3}

# Advantages per completion from (scores_C, group_C); for methods without a critic.
GROUP_CREDIT: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "group_mean": credit.group_mean,
    "group_standardised": credit.group_standardised,
    "leave_one_out": credit.leave_one_out,
}

# How ties enter the reward model's loss: as a soft label of one half, or as an outcome of their own.
PREFERENCE_LOSSES: Mapping[str, Callable[..., Terms]] = {
    "bradley_terry": bradley_terry_loss,
    "rao_kupper": rao_kupper_loss,
}

# Losses on pairs of answers that were not sampled for the purpose, from (PairLogps, the method's settings).
OFFLINE: Mapping[str, Callable[..., Terms]] = {
    "dpo": dpo_loss,
    "cdpo": cdpo_loss,
    "robust-dpo": robust_dpo_loss,
    "ipo": ipo_loss,
    "orpo": orpo_loss,
    "simpo": simpo_loss,
    "cpo": cpo_loss,
}
