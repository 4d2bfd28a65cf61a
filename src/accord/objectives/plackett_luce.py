"""Rankings of any number of answers.

Plackett 1975, "The Analysis of Permutations" (Applied Statistics 24), and Luce 1959: the best is chosen among
all, the next among those left, and so on, each time with probability ∝ e^score. Breslow 1974 ("Covariance
Analysis of Censored Survival Data", Biometrics 30) and Efron 1977 ("The Efficiency of Cox's Likelihood
Function for Censored Data", JASA 72) for ties: a ranking is Cox's partial likelihood with ranks for times.
InstructGPT's average over a ranking's pairs is instead `bradley_terry_loss` with weights 1 / (k choose 2).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from accord.errors import ConfigError
from accord.objectives.terms import same_shape
from accord.records import Terms


def plackett_luce_loss(
    scores_C: Tensor,
    *,
    rank_C: Tensor,
    group_C: Tensor,
    weight_C: Tensor | None = None,
    ties: Literal["efron", "breslow", "refuse"] = "efron",
    center_coef: float = 0.0,
) -> Terms:
    """-Σ over groups of w log P(ranking), and η (Σ scores of the group)².

    C completions in any order; `group_C` (integers) says which ranking each belongs to, `rank_C` its place
    there: 1 the best, equal places are tied, and only their order matters. `weight_C` is the ranking's
    weight, the same on all its members. With k = 2 and no tie this is `bradley_terry_loss`, and η
    (`center_coef`) its centring term. Divide by the sum of the rankings' weights (by their number without).

    A tied set of n answers is n draws from those not yet placed. "breslow" keeps the whole set in every
    draw, "efron" takes j/n of it away before draw j, which is closer to the average over its orders and the
    default. Either pulls tied scores together (for two tied answers, the label ½ of Bradley-Terry, twice).
    "refuse" raises ValueError instead. Answers that nobody ranked must not be given as tied in last place.

    Metrics: `loss/reward_avg` per ranking, `rewards/accuracies` and `rewards/margins` over the pairs inside
    rankings that are not tied, `rewards/mean` over answers. Each is weighted like the loss.
    """
    weight_C = torch.ones_like(scores_C) if weight_C is None else weight_C
    same_shape(scores_C=scores_C, rank_C=rank_C, group_C=group_C, weight_C=weight_C)
    together_CC = group_C[:, None] == group_C
    tied_CC = together_CC & (rank_C[:, None] == rank_C)
    if bool((together_CC & (weight_C[:, None] != weight_C)).any()):
        raise ValueError("all answers of one ranking share its weight, but weight_C differs within a group")
    log_draw_CC = _log_shares(tied_CC, ties, scores_C)
    left_CC = together_CC & (rank_C[:, None] <= rank_C)  # those not yet placed when i is drawn
    candidates_CC = torch.where(left_CC, scores_C + log_draw_CC, -torch.inf)
    nll_C = candidates_CC.logsumexp(dim=1) - scores_C

    size_C = together_CC.sum(dim=1)
    total_C = torch.where(together_CC, scores_C, 0.0).sum(dim=1)
    loss = (weight_C * (nll_C + center_coef * total_C.square() / size_C)).sum()

    with torch.no_grad():
        weight_CC = weight_C[:, None] * (together_CC & (rank_C[:, None] < rank_C))  # i is better than j
        margin_CC = scores_C[:, None] - scores_C
        metrics = {
            "loss/reward_avg": ((weight_C * nll_C).sum(), (weight_C / size_C).sum()),
            "rewards/accuracies": ((weight_CC * (1 + torch.sign(margin_CC)) / 2).sum(), weight_CC.sum()),
            "rewards/margins": ((weight_CC * margin_CC).sum(), weight_CC.sum()),
            "rewards/mean": ((weight_C * scores_C).sum(), weight_C.sum()),
        }
    return Terms(loss, metrics)


def _log_shares(tied_CC: Tensor, ties: str, like: Tensor) -> Tensor:
    """Row i: the log of how much of each answer still takes part in the draw of answer i; `like`'s dtype."""
    if ties not in ("efron", "breslow", "refuse"):
        raise ConfigError(f"unknown treatment of ties {ties!r}: use efron, breslow or refuse")
    size_C = tied_CC.sum(dim=1)
    if ties == "refuse" and bool((size_C > 1).any()):
        row = int((size_C > 1).nonzero()[0])
        raise ValueError(
            f"answers {tied_CC[row].nonzero().flatten().tolist()} share a place: ties are refused"
        )
    if ties != "efron":
        return torch.zeros(tied_CC.shape, dtype=like.dtype, device=like.device)
    earlier_C = tied_CC.tril(diagonal=-1).sum(dim=1)  # of the tied set, by position: any order will do
    share_C = 1 - earlier_C.to(like) / size_C
    return torch.where(tied_CC, share_C[:, None].log(), 0.0)
