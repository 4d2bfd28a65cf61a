"""Online DPO: the policy's own answers, paired by the reward, and the loss of DPO on them.

Guo et al. 2024 (2402.04792); Dong et al. 2024 (RLHFlow, 2405.07863) for best against worst of several;
Rafailov et al. 2023 (2305.18290) for the loss. P pairs; shapes and masks as in `ppo`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accord.objectives.dpo import dpo_loss
from accord.objectives.pairs import PairLogps
from accord.objectives.terms import same_shape
from accord.records import Terms

Pairs = tuple[Tensor, Tensor]  # indices of the preferred and of the other completion, each (P,)


def best_and_worst(scores_C: Tensor, group_C: Tensor) -> Pairs:
    """Of each group the best and the worst completion; groups of equal scores say nothing and are left out.

    Among equally good ones the first. Groups in the order of their numbers.
    """
    same_shape(scores_C=scores_C, group_C=group_C)
    chosen, rejected = [], []
    for group in group_C.unique():
        members = (group_C == group).nonzero().flatten()
        best, worst = scores_C[members].argmax(), scores_C[members].argmin()
        if scores_C[members[best]] > scores_C[members[worst]]:
            chosen.append(members[best])
            rejected.append(members[worst])
    return _indices(chosen, group_C), _indices(rejected, group_C)


def better_and_worse(scores_C: Tensor, first_P: Tensor, second_P: Tensor) -> Pairs:
    """Given pairs, the better one first; pairs of equal scores are left out."""
    same_shape(first_P=first_P, second_P=second_P)
    gap_P = scores_C[first_P] - scores_C[second_P]
    decided_P = gap_P != 0
    better_P = torch.where(gap_P > 0, first_P, second_P)
    worse_P = torch.where(gap_P > 0, second_P, first_P)
    return better_P[decided_P], worse_P[decided_P]


def online_dpo_loss(
    logps_CT: Tensor, ref_logps_CT: Tensor, mask_CT: Tensor, pairs: Pairs, *, beta: float
) -> Terms:
    """Σ_p -log σ(β (log π/π_ref of the better answer - log π/π_ref of the worse)) (Rafailov 2023, eq. 7).

    Divide by the number of pairs. With pairs from Bradley-Terry on a reward r, the optimum is PPO's,
    π ∝ π_ref exp(r/β); best against worst of a deterministic reward has no finite optimum, and β only sets
    the pace. Metrics: see `pairs.pair_terms`.
    """
    same_shape(logps_CT=logps_CT, ref_logps_CT=ref_logps_CT, mask_CT=mask_CT)
    logps_C = torch.where(mask_CT, logps_CT, 0.0).sum(1)
    ref_C = torch.where(mask_CT, ref_logps_CT, 0.0).sum(1)
    lengths_C = mask_CT.sum(1).to(logps_C)
    chosen_P, rejected_P = pairs
    compared = PairLogps(
        logps_C[chosen_P],
        logps_C[rejected_P],
        ref_C[chosen_P],
        ref_C[rejected_P],
        lengths_C[chosen_P],
        lengths_C[rejected_P],
    )
    return dpo_loss(compared, beta=beta)


def _indices(found: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(found) if found else like.new_zeros(0, dtype=torch.long)
