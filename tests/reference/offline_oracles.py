"""The offline preference losses once more, from the papers, in float64 and one pair at a time.

Written without a look at the package: no torch, no broadcasting, probabilities rather than stable forms.
A pair is (log π of the chosen, of the rejected, the same under the reference, both lengths in tokens).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pair:
    chosen: float
    rejected: float
    ref_chosen: float
    ref_rejected: float
    n_chosen: int
    n_rejected: int
    weight: float = 1.0
    margin: float = 0.0


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(np.float64(-x))))


def prefers(reward_w: float, reward_l: float) -> float:
    """Bradley-Terry: the probability that w beats l."""
    most = max(reward_w, reward_l)
    e_w, e_l = np.exp(np.float64([reward_w - most, reward_l - most]))
    return float(e_w / (e_w + e_l))


def implicit_rewards(pair: Pair, beta: float) -> tuple[float, float]:
    return beta * (pair.chosen - pair.ref_chosen), beta * (pair.rejected - pair.ref_rejected)


def dpo(pair: Pair, beta: float, margin_coef: float) -> float:
    reward_w, reward_l = implicit_rewards(pair, beta)
    return -math.log(prefers(reward_w - margin_coef * pair.margin, reward_l))


def swapped(pair: Pair, beta: float, margin_coef: float) -> float:
    """The loss of the opposite label: minus the log of the probability that the rejected one wins."""
    reward_w, reward_l = implicit_rewards(pair, beta)
    return -math.log(prefers(reward_l, reward_w - margin_coef * pair.margin))


def cdpo(pair: Pair, beta: float, margin_coef: float, eps: float) -> float:
    return (1 - eps) * dpo(pair, beta, margin_coef) + eps * swapped(pair, beta, margin_coef)


def robust_dpo(pair: Pair, beta: float, margin_coef: float, eps: float) -> float:
    kept, flipped = dpo(pair, beta, margin_coef), swapped(pair, beta, margin_coef)
    return ((1 - eps) * kept - eps * flipped) / (1 - 2 * eps)


def ipo_ratios(pair: Pair, form: str) -> tuple[float, float]:
    ratio_w, ratio_l = implicit_rewards(pair, 1.0)
    if form == "mean":
        ratio_w, ratio_l = ratio_w / pair.n_chosen, ratio_l / pair.n_rejected
    return ratio_w, ratio_l


def ipo(pair: Pair, tau: float, form: str) -> float:
    ratio_w, ratio_l = ipo_ratios(pair, form)
    return (ratio_w - ratio_l - 0.5 / tau) ** 2


def cpo(pair: Pair, beta: float, eps: float) -> float:
    right = prefers(beta * pair.chosen, beta * pair.rejected)
    wrong = prefers(beta * pair.rejected, beta * pair.chosen)
    return -(1 - eps) * math.log(right) - eps * math.log(wrong)


def simpo(pair: Pair, beta: float, gamma: float, eps: float) -> float:
    reward_w = beta * pair.chosen / pair.n_chosen
    reward_l = beta * pair.rejected / pair.n_rejected
    right, wrong = prefers(reward_w, reward_l + gamma), prefers(reward_l + gamma, reward_w)
    return -(1 - eps) * math.log(right) - eps * math.log(wrong)


def simpo_as_trl(pair: Pair, beta: float, gamma: float) -> float:
    """With the margin as a share of β, inside: β (mean_w - mean_l - γ/β)."""
    logits = pair.chosen / pair.n_chosen - pair.rejected / pair.n_rejected - gamma / beta
    return -math.log(sigmoid(beta * logits))


def odds(mean_logp: float) -> float:
    p = math.exp(mean_logp)
    return p / (1 - p)


def orpo(pair: Pair, lam: float) -> float:
    ratio = odds(pair.chosen / pair.n_chosen) / odds(pair.rejected / pair.n_rejected)
    return -lam * math.log(ratio / (1 + ratio))


def chosen_nll(pair: Pair) -> float:
    return -pair.chosen / pair.n_chosen


def total(pairs: Sequence[Pair], losses: Sequence[float]) -> float:
    return sum(pair.weight * loss for pair, loss in zip(pairs, losses, strict=True))


def pair_metrics(
    pairs: Sequence[Pair], losses: Sequence[float], rewards: Sequence[tuple[float, float]]
) -> dict[str, float]:
    """Sums; the count of each is the sum of weights."""
    out = dict.fromkeys(
        [
            "loss/preference_avg",
            "rewards/chosen",
            "rewards/rejected",
            "rewards/margins",
            "rewards/accuracies",
            "logps/chosen",
            "logps/rejected",
        ],
        0.0,
    )
    for pair, loss, (reward_w, reward_l) in zip(pairs, losses, rewards, strict=True):
        out["loss/preference_avg"] += pair.weight * loss
        out["rewards/chosen"] += pair.weight * reward_w
        out["rewards/rejected"] += pair.weight * reward_l
        out["rewards/margins"] += pair.weight * (reward_w - reward_l)
        out["rewards/accuracies"] += pair.weight * (
            1.0 if reward_w > reward_l else 0.5 if reward_w == reward_l else 0.0
        )
        out["logps/chosen"] += pair.weight * pair.chosen
        out["logps/rejected"] += pair.weight * pair.rejected
    return out


# --- KTO: one answer at a time -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    logp: float
    ref_logp: float
    good: bool
    weight: float = 1.0


def kto_value(ratio: float, z0: float, good: bool, beta: float, lam_d: float, lam_u: float) -> float:
    """The paper's v(x, y)."""
    return lam_d * sigmoid(beta * (ratio - z0)) if good else lam_u * sigmoid(beta * (z0 - ratio))


def kto(verdicts: Sequence[Verdict], z0: float, beta: float, lam_d: float, lam_u: float) -> float:
    loss = 0.0
    for v in verdicts:
        lam = lam_d if v.good else lam_u
        loss += v.weight * (lam - kto_value(v.logp - v.ref_logp, z0, v.good, beta, lam_d, lam_u))
    return loss


def kto_metrics(verdicts: Sequence[Verdict], z0: float, beta: float) -> dict[str, tuple[float, float]]:
    everyone = sum(v.weight for v in verdicts)
    right = 0.0
    out: dict[str, tuple[float, float]] = {}
    for v in verdicts:
        gap = (v.logp - v.ref_logp - z0) * (1 if v.good else -1)
        right += v.weight * (1.0 if gap > 0 else 0.5 if gap == 0 else 0.0)
    for name, good in (("chosen", True), ("rejected", False)):
        own = [v for v in verdicts if v.good is good]
        norm = sum(v.weight for v in own)
        out[f"rewards/{name}"] = (sum(v.weight * beta * (v.logp - v.ref_logp) for v in own), norm)
        out[f"logps/{name}"] = (sum(v.weight * v.logp for v in own), norm)
    return {**out, "rewards/accuracies": (right, everyone), "kl": (z0 * everyone, everyone)}


def kl_baseline(ratios: Sequence[float]) -> float:
    mean = math.fsum(ratios) / len(ratios)
    return mean if mean > 0 else 0.0
