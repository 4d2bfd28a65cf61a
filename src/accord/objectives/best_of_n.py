"""Best-of-n sampling: what it costs in KL and what it earns, from N samples that are already scored.

Stiennon et al. 2020 (2009.01325) and Nakano et al. 2021 (2112.09332) for the estimator, Gao et al. 2022
(2210.10760) and Coste et al. 2024 (2310.02743) for its use, Beirami et al. 2024 (2401.01879) for the bound.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def best_of_n_kl(n: int) -> float:
    """log n - (n - 1)/n, in nats: an upper bound on KL(best-of-n || the policy that was sampled).

    Exact when no two completions can have the same score, as for a continuous reward over a rich policy;
    with ties or few possible completions the true divergence is smaller (Beirami 2024, theorem 3.1).
    """
    if n < 1:
        raise ValueError(f"best of n needs n of at least 1, not {n}")
    return math.log(n) - (n - 1) / n


def best_of_n_weights(total: int, n: int) -> Tensor:
    """Chance that each of N = `total` samples, sorted by rising score, is the best of n drawn from them.

    w_i = C(i - 1, n - 1) / C(N, n) for rank i = 1 … N, shape (N,), float64. Made by the recurrence
    w_N = n/N, w_i = w_{i+1} (i - n + 1)/i from the top, which never forms a large number.
    """
    if not 1 <= n <= total:
        raise ValueError(f"best of n needs 1 <= n <= the number of samples, not n = {n} of {total}")
    rank_N = torch.arange(total - 1, 0, -1, dtype=torch.float64)
    steps_N = ((rank_N - n + 1) / rank_N).clamp(min=0)
    first = torch.tensor([n / total], dtype=torch.float64)
    return torch.cat([first, steps_N]).cumprod(0).flip(0)


def best_of_n_mean(proxy_N: Tensor, gold_N: Tensor, n: int) -> Tensor:
    """Mean gold score when the proxy picks the best of n, unbiased, from N scored samples of one prompt.

    It averages over all C(N, n) subsets at once. Among equal proxy scores the pick is uniform, so the
    order of the samples does not matter. Returns a float64 scalar.
    """
    if proxy_N.shape != gold_N.shape or proxy_N.dim() != 1:
        raise ValueError(f"need two vectors alike, not {tuple(proxy_N.shape)} and {tuple(gold_N.shape)}")
    order_N = proxy_N.argsort()
    weight_N = best_of_n_weights(proxy_N.numel(), n).to(proxy_N.device)
    _, tied_N, size_K = proxy_N[order_N].unique(return_inverse=True, return_counts=True)
    shared_K = torch.zeros(len(size_K), dtype=torch.float64, device=proxy_N.device)
    shared_K = shared_K.index_add(0, tied_N, weight_N) / size_K
    return (shared_K[tied_N] * gold_N[order_N].double()).sum()
