"""A linear probe: the best scalar head on the trunk's untouched hidden states.

Starting the head there and only then training the adapter (LP-FT, Kumar et al. 2022, arXiv 2202.10054)
keeps what the trunk already knows: a random head would first bend the adapter to itself. It also needs
fewer steps, and the probe costs one pass without gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from accord.models.heads import ScalarHead


def fit_probe(
    hidden_CD: Tensor, a_P: Tensor, b_P: Tensor, label_P: Tensor, weight_P: Tensor, *, penalty: float
) -> Tensor:
    """Float64 weights (D,) that minimise the Bradley-Terry loss with a ridge on standardised hidden states.

    C answers, P comparisons of answer `a_P` with answer `b_P`; `label_P` is P(a is better). The problem is
    convex, so L-BFGS finds the one optimum.
    """
    hidden_CD = hidden_CD.double()
    scale_D = hidden_CD.std(0).clamp_min(1e-8)
    difference_PD = (hidden_CD[a_P] - hidden_CD[b_P]) / scale_D
    label_P, weight_P = label_P.double(), weight_P.double() / weight_P.sum()
    weight_D = torch.zeros(hidden_CD.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weight_D], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        margin_P = difference_PD @ weight_D
        nll_P = label_P * softplus(-margin_P) + (1 - label_P) * softplus(margin_P)
        value = (weight_P * nll_P).sum() + penalty * weight_D.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    return weight_D.detach() / scale_D


def fit_ridge(hidden_ND: Tensor, rating_N: Tensor, weight_N: Tensor, *, penalty: float) -> Tensor:
    """Float64 weights (D,) of the ridge regression of ratings on standardised, centred hidden states."""
    hidden_ND, weight_N = hidden_ND.double(), weight_N.double() / weight_N.sum()
    scale_D = hidden_ND.std(0, correction=0).clamp_min(1e-8)  # of one answer, too
    centred_ND = (hidden_ND - weight_N @ hidden_ND) / scale_D
    weighted_DN = (weight_N[:, None] * centred_ND).T
    gram_DD = weighted_DN @ centred_ND + penalty * torch.eye(len(scale_D), dtype=torch.float64)
    return torch.linalg.solve(gram_DD, weighted_DN @ (rating_N - weight_N @ rating_N)) / scale_D


@torch.no_grad()
def start_head(head: ScalarHead, weight_D: Tensor, hidden_CD: Tensor, *, mean: float = 0.0) -> None:
    """Put the probe into the head, with the mean score of these answers at `mean`."""
    head.weight.copy_(weight_D.to(head.weight))
    head.bias.zero_()
    head.bias.copy_(mean - head(hidden_CD).mean())
