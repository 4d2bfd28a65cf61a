"""The objectives once more, from the papers, in float64 and one scalar at a time.

Slow on purpose and written without a look at the package: no torch, no broadcasting, nothing shared.
A ragged batch is a list of rows; a row is a list of numbers, one for each real token.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

Row = Sequence[float]
Rows = Sequence[Row]


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


# --- KL estimators (Schulman 2020): r = p/q for a sample of q ---------------------------------------------


def kl_estimates(log_q: float, log_p: float) -> tuple[float, float, float]:
    ratio = np.float64(math.exp(log_p)) / np.float64(math.exp(log_q))
    return -math.log(ratio), 0.5 * math.log(ratio) ** 2, (ratio - 1) - math.log(ratio)


# --- PPO ---------------------------------------------------------------------------------------------------


def policy_loss(logps: Rows, old: Rows, advantages: Rows, eps: float) -> dict[str, float]:
    out = {"loss": 0.0, "approxkl": 0.0, "clipfrac": 0.0, "ratio": 0.0, "count": 0.0}
    for c, row in enumerate(logps):
        for t, logp in enumerate(row):
            ratio, advantage = math.exp(logp) / math.exp(old[c][t]), advantages[c][t]
            low, high = 1 - eps, 1 + eps
            clipped = low if ratio < low else high if ratio > high else ratio
            out["loss"] -= min(ratio * advantage, clipped * advantage)
            out["approxkl"] += 0.5 * (logp - old[c][t]) ** 2
            out["clipfrac"] += 1.0 if clipped * advantage < ratio * advantage else 0.0
            out["ratio"] += ratio
            out["count"] += 1
    return out


def value_loss(values: Rows, old: Rows, returns: Rows, eps: float) -> dict[str, float]:
    out = {"loss": 0.0, "clipfrac": 0.0, "error": 0.0, "returns": 0.0, "squares": 0.0, "count": 0.0}
    for c, row in enumerate(values):
        for t, value in enumerate(row):
            target, change = returns[c][t], value - old[c][t]
            if change > eps:
                change = eps
            if change < -eps:
                change = -eps
            plain, clipped = (value - target) ** 2, (old[c][t] + change - target) ** 2
            out["loss"] += 0.5 * (clipped if clipped > plain else plain)
            out["clipfrac"] += 1.0 if clipped > plain else 0.0
            out["error"] += plain
            out["returns"] += target
            out["squares"] += target * target
            out["count"] += 1
    return out


def shape_rewards(scores: Row, logps: Rows, ref: Rows, beta: float) -> list[list[float]]:
    rows = []
    for c, row in enumerate(logps):
        rewards = []
        for t, logp in enumerate(row):
            reward = -beta * (logp - ref[c][t])
            if t == len(row) - 1:
                reward += scores[c]
            rewards.append(reward)
        rows.append(rewards)
    return rows


def gae(rewards: Rows, values: Rows, gamma: float, lam: float) -> tuple[list[list[float]], list[list[float]]]:
    """By the defining sum A_t = Σ_l (γλ)^l δ_{t+l}, not by the recursion."""
    advantages, returns = [], []
    for c, row in enumerate(rewards):
        length = len(row)
        deltas = []
        for t in range(length):
            after = values[c][t + 1] if t + 1 < length else 0.0
            deltas.append(row[t] + gamma * after - values[c][t])
        sums = []
        for t in range(length):
            sums.append(sum((gamma * lam) ** k * deltas[t + k] for k in range(length - t)))
        advantages.append(sums)
        returns.append([a + v for a, v in zip(sums, values[c], strict=True)])
    return advantages, returns


def whiten(rows: Rows, shift_mean: bool) -> list[list[float]]:
    flat = [x for row in rows for x in row]
    mean = sum(flat) / len(flat)
    variance = sum((x - mean) ** 2 for x in flat) / len(flat)
    back = 0.0 if shift_mean else mean
    return [[(x - mean) / math.sqrt(variance + 1e-8) + back for x in row] for row in rows]


def kl_controller(coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    proportional_error = float(np.clip(kl / target - 1, -0.2, 0.2))
    return coef * (1 + proportional_error * episodes / horizon)


# --- supervised fine-tuning --------------------------------------------------------------------------------


def nll(logps: Rows, weights: Row) -> float:
    total = 0.0
    for c, row in enumerate(logps):
        for logp in row:
            total -= weights[c] * logp
    return total


# --- preferences -------------------------------------------------------------------------------------------


def shift(label: float, margin: float) -> float:
    return margin if label > 0.5 else -margin if label < 0.5 else 0.0


def bradley_terry(
    a: Row, b: Row, labels: Row, margins: Row, weights: Row, smoothing: float, center: float
) -> float:
    total = 0.0
    for r_a, r_b, label, margin, weight in zip(a, b, labels, margins, weights, strict=True):
        p = sigmoid(r_a - r_b - shift(label, margin))
        q = label * (1 - smoothing) + (1 - label) * smoothing
        total += weight * (-q * math.log(p) - (1 - q) * math.log(1 - p) + center * (r_a + r_b) ** 2)
    return total


def rao_kupper_probs(r_a: float, r_b: float, nu: float) -> tuple[float, float, float]:
    """From the ratings π = e^r and θ = e^ν, as the paper writes them."""
    pi_a, pi_b, theta = math.exp(r_a), math.exp(r_b), math.exp(nu)
    win = pi_a / (pi_a + theta * pi_b)
    loss = pi_b / (pi_b + theta * pi_a)
    tie = pi_a * pi_b * (theta**2 - 1) / ((pi_a + theta * pi_b) * (pi_b + theta * pi_a))
    return win, tie, loss


def rao_kupper(
    a: Row, b: Row, labels: Row, margins: Row, weights: Row, nu: float, smoothing: float, center: float
) -> float:
    total = 0.0
    for r_a, r_b, label, margin, weight in zip(a, b, labels, margins, weights, strict=True):
        win, tie, loss = rao_kupper_probs(r_a - shift(label, margin), r_b, nu)
        if label == 0.5:
            nll_pair = -math.log(tie)
        else:
            right, wrong = (win, loss) if label == 1 else (loss, win)
            nll_pair = -(1 - smoothing) * math.log(right) - smoothing * math.log(wrong)
        total += weight * (nll_pair + center * (r_a + r_b) ** 2)
    return total


def pair_metrics(a: Row, b: Row, labels: Row, weights: Row) -> dict[str, tuple[float, float]]:
    right = margin = decided = both = weight_sum = 0.0
    for r_a, r_b, label, weight in zip(a, b, labels, weights, strict=True):
        both += weight * (r_a + r_b)
        weight_sum += weight
        if label == 0.5:
            continue
        gap = r_a - r_b if label > 0.5 else r_b - r_a
        right += weight * (1.0 if gap > 0 else 0.5 if gap == 0 else 0.0)
        margin += weight * gap
        decided += weight
    return {
        "rewards/accuracies": (right, decided),
        "rewards/margins": (margin, decided),
        "rewards/mean": (both, 2 * weight_sum),
    }


# --- groups and best-of-n ----------------------------------------------------------------------------------


def group_advantages(scores: Row, groups: Sequence[int], kind: str, eps: float = 1e-4) -> list[float]:
    out = []
    for i, score in enumerate(scores):
        others = [s for j, s in enumerate(scores) if groups[j] == groups[i] and j != i]
        group = [*others, score]
        if kind == "leave_one_out":
            out.append(score - sum(others) / len(others))
            continue
        mean = sum(group) / len(group)
        std = math.sqrt(sum((s - mean) ** 2 for s in group) / (len(group) - 1))
        out.append((score - mean) / (std + eps) if kind == "group_standardised" else score - mean)
    return out


def best_of_n_mean(proxy: Row, gold: Row, n: int) -> float:
    """Every subset of size n is tried; among equal best proxies the pick is uniform."""
    picks = []
    for subset in itertools.combinations(range(len(proxy)), n):
        best = max(proxy[i] for i in subset)
        winners = [gold[i] for i in subset if proxy[i] == best]
        picks.append(sum(winners) / len(winners))
    return sum(picks) / len(picks)
