"""Raters who agree with each other more than their agreement with everybody else explains."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from accord.feedback.estimates import Floats
from accord.feedback.votes import Vote, first_votes

FEWEST_SHARED = 10  # pairs that two raters must share before anything is said of them
FALSE_ALARMS = 0.01  # in a team without copying, the probability of any suspicion at all


@dataclass(frozen=True)
class Copying:
    """Two raters under suspicion. What is expected is the upper end of what independence would explain."""

    raters: tuple[str, str]
    n: int  # pairs that both decided
    agreement: float
    expected: float
    same_strength: float  # share of the agreed pairs with the very same strength
    expected_same_strength: float
    p_value: float
    evidence: str


@dataclass(frozen=True)
class _Tables:
    """Counts for any two raters, (R, R), on pairs that both decided."""

    names: list[str]
    n_RR: Floats
    same_RR: Floats  # the same winner
    equal_RR: Floats  # the same winner and strength
    grades_RG: Floats  # share of each rater's decided votes with strength ±1, ±2, ±3


def find_copying(votes: Sequence[Vote]) -> list[Copying]:
    """Pairs of raters whose agreement is too high, given both raters' agreement with the others.

    Winners: if raters judge independently given what is better, and name it with probability q_r, two agree
    with probability ½ + ½ κ_r κ_s, where κ = 2q - 1 (Dawid & Skene 1979, one coin each): a table of rank
    one. κ is fitted by least squares without the cell in question.
    Strengths, where the winner is the same: not more often equal than either rater's are with others', nor
    than the two raters' habits alone would make them.
    To either 1.64 standard errors are added; binomial tails, combined by Fisher's method, are held to 0.01
    over the number of pairs of raters. Ties do not count. The finding can also mean one person with two
    accounts, or a taste that only the two share: look before you accuse.
    """
    t = _tables(votes)
    tested = [(r, s) for r in range(len(t.names)) for s in range(r) if t.n_RR[r, s] >= FEWEST_SHARED]
    if len(t.names) < 4 or not tested:
        return []  # with three raters each product of two κ explains its own cell
    excess_RR = 2 * t.same_RR / np.maximum(t.n_RR, 1) - 1
    suspects: dict[tuple[int, int], Copying] = {}
    for _ in range(2):  # the second time, suspects have no part in the fit
        weight_RR = t.n_RR.copy()
        for r, s in suspects:
            weight_RR[r, s] = weight_RR[s, r] = 0
        kappa_R = _rank_one(excess_RR, weight_RR)
        all_found = {(r, s): _compare(r, s, kappa_R, excess_RR, weight_RR, t) for r, s in tested}
        suspects = {key: c for key, c in all_found.items() if c.p_value < FALSE_ALARMS / len(tested)}
    return sorted(suspects.values(), key=lambda c: c.p_value)


def _compare(r: int, s: int, kappa_R: Floats, excess_RR: Floats, weight_RR: Floats, t: _Tables) -> Copying:
    n, same, equal = (float(some[r, s]) for some in (t.n_RR, t.same_RR, t.equal_RR))
    expected = _expected_agreement(r, s, kappa_R, excess_RR, weight_RR)
    by_strength = _expected_equal(r, s, weight_RR, t)
    tails = [stats.binom.sf(same - 1, n, expected), stats.binom.sf(equal - 1, same, by_strength)]
    p = float(stats.chi2.sf(-2 * np.log(np.maximum(tails, 1e-300)).sum(), 4))
    one, other = t.names[s], t.names[r]
    evidence = (
        f"{one} and {other} chose the same answer in {same:.0f} of {n:.0f} shared pairs (independent raters: "
        f"{expected:.0%} at most), with the very same strength in {equal:.0f} ({by_strength:.0%} at most)"
    )
    share = equal / same if same else 0.0
    return Copying((one, other), int(n), same / n, expected, share, by_strength, p, evidence)


def copy_weights(votes: Sequence[Vote], suspects: Sequence[Copying]) -> dict[str, float]:
    """By judgement id: on each pair, raters who are linked by suspicion share one vote among them."""
    linked = defaultdict[str, set[str]](set)
    for found in suspects:
        for one, other in (found.raters, found.raters[::-1]):
            linked[one].add(other)
    by_pair = defaultdict[str, list[Vote]](list)
    for vote in votes:
        if vote.rater in linked:
            by_pair[vote.pair].append(vote)
    weights = {}
    for some in by_pair.values():
        present = {vote.rater for vote in some}
        for vote in some:
            weights[vote.judgement_id] = 1 / len(_clique(vote.rater, present, linked))
    return weights


def _clique(rater: str, present: set[str], linked: dict[str, set[str]]) -> set[str]:
    """Everybody present who is linked to the rater, also through others."""
    found, frontier = {rater}, [rater]
    while frontier:
        new = (linked[frontier.pop()] & present) - found
        found |= new
        frontier += new
    return found


def _tables(votes: Sequence[Vote]) -> _Tables:
    names = sorted({vote.rater for vote in votes})
    code = {name: r for r, name in enumerate(names)}
    by_pair = defaultdict[str, list[Vote]](list)
    grades_RG = np.zeros((len(names), 3))
    for vote in first_votes(votes):
        if vote.winner:
            by_pair[vote.pair].append(vote)
            grades_RG[code[vote.rater], abs(vote.strength) - 1] += 1
    n, same, equal = (np.zeros((len(names), len(names))) for _ in range(3))
    for some in by_pair.values():
        for one, other in itertools.permutations(some, 2):
            where = code[one.rater], code[other.rater]
            n[where] += 1
            same[where] += one.winner == other.winner
            equal[where] += one.strength == other.strength
    return _Tables(names, n, same, equal, grades_RG / np.maximum(grades_RG.sum(1, keepdims=True), 1))


def _rank_one(excess_RR: Floats, weight_RR: Floats, steps: int = 200) -> Floats:
    """κ that minimises Σ w (excess - κ_r κ_s)², one rater at a time; the majority is taken to be right.

    From the leading eigenvector, because from equal κ inverted raters may never be reached.
    """
    values, vectors = np.linalg.eigh(np.where(weight_RR > 0, excess_RR, 0.0))
    lead_R = vectors[:, -1] * np.sign(vectors[:, -1].sum() or 1.0)
    kappa_R = np.clip(np.sqrt(max(float(values[-1]), 0.05)) * lead_R, -1, 1)
    for _ in range(steps):
        before = kappa_R.copy()
        for r in range(len(kappa_R)):
            kappa_R[r] = _kappa(r, kappa_R, excess_RR, weight_RR)
        if np.abs(kappa_R - before).max() < 1e-6:
            break
    return kappa_R


def _kappa(r: int, kappa_R: Floats, excess_RR: Floats, weight_RR: Floats) -> float:
    info = float(weight_RR[r] @ kappa_R**2)
    return float(np.clip((weight_RR[r] * excess_RR[r]) @ kappa_R / info, -1, 1)) if info > 0 else 0.0


def _expected_agreement(r: int, s: int, kappa_R: Floats, excess_RR: Floats, weight_RR: Floats) -> float:
    """The agreement of r and s that the other cells explain, with 1.64 standard errors on top."""
    without_RR = weight_RR.copy()
    without_RR[r, s] = without_RR[s, r] = 0
    one, other = (_kappa(i, kappa_R, excess_RR, without_RR) for i in (r, s))
    info_r, info_s = (max(float(without_RR[i] @ kappa_R**2), 1e-9) for i in (r, s))
    se = np.sqrt(other**2 / info_r + one**2 / info_s)
    return float(np.clip(0.5 + (one * other + 1.64 * se) / 2, 0.5, 0.99))


def _expected_equal(r: int, s: int, weight_RR: Floats, t: _Tables) -> float:
    """P(equal strength | same winner): the highest of r's and s's with the others, and of habits alone."""
    shares = [float(t.grades_RG[r] @ t.grades_RG[s])]
    for i, j in ((r, s), (s, r)):
        with_others = weight_RR[i] > 0
        with_others[j] = False
        same, equal = t.same_RR[i, with_others].sum(), t.equal_RR[i, with_others].sum()
        if same > 0:
            share = equal / same
            shares.append(share + 1.64 * np.sqrt(share * (1 - share) / same))
    return float(np.clip(max(shares), 0.05, 0.99))
