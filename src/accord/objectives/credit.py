"""Advantages without a critic: a completion is compared with its siblings, answers to the same prompt.

GRPO (Shao et al. 2024, DeepSeekMath, 2402.03300, section 4.1), Dr. GRPO (Liu et al. 2025, 2503.20783,
without the standard deviation) and RLOO (Kool et al. 2019; Ahmadian et al. 2024, 2402.14740).

C completions; `group_C` (integers) says which prompt each belongs to, in any order. Every group needs at
least two completions: one alone has nothing to be compared with, and the functions raise ValueError.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accord.objectives.terms import same_shape


def group_mean(scores_C: Tensor, group_C: Tensor) -> Tensor:
    """A_i = r_i - mean(r of the group): Dr. GRPO.

    Its policy gradient is (k - 1)/k times the true one in expectation, the sample being part of its own
    baseline.
    """
    mean_C, _ = _group_statistics(scores_C, group_C)
    return scores_C - mean_C


def group_standardised(scores_C: Tensor, group_C: Tensor, *, eps: float = 1e-4) -> Tensor:
    """A_i = (r_i - mean) / (std + ε): GRPO. The std divides by k - 1, as in TRL.

    The division lends easy and hard prompts, whose scores hardly vary, more weight than the others
    (Dr. GRPO's objection). A group of equal scores has advantage 0.
    """
    mean_C, size_C = _group_statistics(scores_C, group_C)
    deviation_C = scores_C - mean_C
    mean_square_C, _ = _group_statistics(deviation_C.square(), group_C)
    std_C = (mean_square_C * size_C / (size_C - 1)).sqrt()
    return deviation_C / (std_C + eps)


def leave_one_out(scores_C: Tensor, group_C: Tensor) -> Tensor:
    """A_i = r_i - mean(r of the other k - 1): RLOO. A baseline independent of the sample leaves no bias."""
    mean_C, size_C = _group_statistics(scores_C, group_C)
    return (scores_C - mean_C) * size_C / (size_C - 1)


def to_tokens(advantages_C: Tensor, mask_CT: Tensor) -> Tensor:
    """The completion's advantage on each of its real tokens, zeros elsewhere; shape (C, T)."""
    return torch.where(mask_CT, advantages_C[:, None], 0.0)


def _group_statistics(x_C: Tensor, group_C: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the group and its size, for each completion."""
    same_shape(scores_C=x_C, group_C=group_C)
    _, index_C, size_G = group_C.unique(return_inverse=True, return_counts=True)
    if bool((size_G < 2).any()):
        alone = group_C[(size_G < 2)[index_C]].tolist()
        raise ValueError(f"groups {alone} have one completion each; a group baseline needs at least two")
    sum_G = torch.zeros(len(size_G), dtype=x_C.dtype, device=x_C.device).index_add(0, index_C, x_C)
    size_C = size_G[index_C].to(x_C)
    return sum_G[index_C] / size_C, size_C
