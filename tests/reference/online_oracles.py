"""The on-policy methods once more, from the papers, in float64 and one scalar at a time.

Slow on purpose and written without a look at the package: no torch, no broadcasting, nothing shared.
A ragged batch is a list of rows; a row is a list of numbers, one for each real token.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np

Row = Sequence[float]
Rows = Sequence[Row]


def siblings(groups: Sequence[int], i: int) -> list[int]:
    return [j for j, g in enumerate(groups) if g == groups[i]]


# --- GRPO and relatives -------------------------------------------------------------------------------------


def grpo_advantages(scores: Row, groups: Sequence[int], scale: str, eps: float = 1e-4) -> list[float]:
    out = []
    for i, score in enumerate(scores):
        group = [scores[j] for j in siblings(groups, i)]
        centred = score - statistics.fmean(group)
        spread = {"none": None, "group": group, "batch": list(scores)}[scale]
        out.append(centred if spread is None else centred / (statistics.stdev(spread) + eps))
    return out


def varied(scores: Row, groups: Sequence[int]) -> list[bool]:
    return [len({scores[j] for j in siblings(groups, i)}) > 1 for i in range(len(scores))]


def overlong(length: int, longest: int, cache: int) -> float:
    """DAPO's R_length, which is never positive."""
    if length <= longest - cache:
        return 0.0
    if length <= longest:
        return ((longest - cache) - length) / cache
    return -1.0


def grpo_objective(
    logps: Rows,
    old: Rows,
    ref: Rows,
    advantages: Rows,
    *,
    low: float,
    high: float,
    sequence: bool,
    loss_type: str,
    longest: int,
    beta: float,
    estimator: str,
) -> float:
    """The loss as the papers write it: already a mean, of whatever kind."""
    sums = []
    for c, row in enumerate(logps):
        length = len(row)
        whole = math.prod(math.exp(p) / math.exp(q) for p, q in zip(row, old[c], strict=True))
        total = 0.0
        for t, logp in enumerate(row):
            token = math.exp(logp) / math.exp(old[c][t])
            ratio = whole ** (1 / length) if sequence else token
            clipped = float(np.clip(ratio, 1 - low, 1 + high))
            total -= min(ratio * advantages[c][t], clipped * advantages[c][t])
            rho = math.exp(ref[c][t]) / math.exp(logp)
            unbiased = rho - math.log(rho) - 1
            kl = {"k2": 0.5 * math.log(rho) ** 2, "k3": unbiased, "k3_corrected": token * unbiased}[estimator]
            total += beta * kl
        sums.append(total)
    if loss_type == "grpo":
        return sum(s / len(row) for s, row in zip(sums, logps, strict=True)) / len(sums)
    if loss_type == "dapo":
        return sum(sums) / sum(len(row) for row in logps)
    return sum(s / longest for s in sums) / len(sums)


# --- REINFORCE ----------------------------------------------------------------------------------------------


def rloo_advantages(scores: Row, logps: Rows, ref: Rows, groups: Sequence[int], beta: float) -> list[float]:
    rewards = [r - beta * (math.fsum(p) - math.fsum(q)) for r, p, q in zip(scores, logps, ref, strict=True)]
    out = []
    for i, reward in enumerate(rewards):
        others = [rewards[j] for j in siblings(groups, i) if j != i]
        out.append(reward - sum(others) / len(others))
    return out


def sequence_loss(logps: Rows, old: Rows, advantages: Row, eps: float) -> float:
    total = 0.0
    for p, q, advantage in zip(logps, old, advantages, strict=True):
        ratio = math.exp(math.fsum(p)) / math.exp(math.fsum(q))
        total -= min(ratio * advantage, float(np.clip(ratio, 1 - eps, 1 + eps)) * advantage)
    return total


def reinforce_plus_plus(
    scores: Row, logps: Rows, ref: Rows, beta: float, gamma: float, groups: Sequence[int] | None
) -> list[list[float]]:
    to_go = []
    for c, row in enumerate(logps):
        score = scores[c]
        if groups is not None:
            score -= statistics.fmean([scores[j] for j in siblings(groups, c)])
        rewards = [-beta * math.log(math.exp(p) / math.exp(q)) for p, q in zip(row, ref[c], strict=True)]
        rewards[-1] += score
        to_go.append(
            [sum(gamma ** (s - t) * rewards[s] for s in range(t, len(row))) for t in range(len(row))]
        )
    flat = [x for row in to_go for x in row]
    mean, deviation = statistics.fmean(flat), math.sqrt(statistics.pvariance(flat) + 1e-8)
    return [[(x - mean) / deviation for x in row] for row in to_go]


# --- preferences among the policy's own answers -------------------------------------------------------------


def best_and_worst(scores: Row, groups: Sequence[int]) -> list[tuple[int, int]]:
    pairs = []
    for group in sorted(set(groups)):
        members = [i for i, g in enumerate(groups) if g == group]
        best = max(members, key=lambda i: (scores[i], -i))
        worst = min(members, key=lambda i: (scores[i], i))
        if scores[best] != scores[worst]:
            pairs.append((best, worst))
    return pairs


def dpo(logps: Rows, ref: Rows, pairs: Sequence[tuple[int, int]], beta: float) -> float:
    total = 0.0
    for better, worse in pairs:
        margin = math.fsum(logps[better]) - math.fsum(ref[better])
        margin -= math.fsum(logps[worse]) - math.fsum(ref[worse])
        total -= math.log(1 / (1 + math.exp(-beta * margin)))
    return total


def xpo(
    logps: Rows,
    ref: Rows,
    pairs: Sequence[tuple[int, int]],
    explored: Sequence[int],
    beta: float,
    alpha: float,
) -> float:
    """Algorithm 1: argmin of α Σ log π(τ~) - Σ log σ(β log-ratio of τ+ minus that of τ-)."""
    return dpo(logps, ref, pairs, beta) + alpha * sum(math.fsum(logps[i]) for i in explored)


# --- mismatch, and the pre-training mix ---------------------------------------------------------------------


def importance(logps: Rows, sampler: Rows, cap: float, sequence: bool) -> list[list[float]]:
    out = []
    for p, q in zip(logps, sampler, strict=True):
        ratios = [math.exp(a) / math.exp(b) for a, b in zip(p, q, strict=True)]
        out.append([min(math.prod(ratios) if sequence else r, cap) for r in ratios])
    return out


def mismatch_kl(logps: Rows, sampler: Rows) -> float:
    ratios = [math.exp(a - b) for p, q in zip(logps, sampler, strict=True) for a, b in zip(p, q, strict=True)]
    return statistics.fmean(r - 1 - math.log(r) for r in ratios)
