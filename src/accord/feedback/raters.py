"""Each rater by herself: agreement, gold questions, leanings, consistency, pace; and flags with evidence.

A flag is a reason to look, never a verdict. Its test is held to 1 in 100 false alarms per team and kind, so
that in a good team nearly nobody is accused.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import stats

from accord.feedback.estimates import (
    Estimate,
    Floats,
    median_estimate,
    share_bounds,
    share_estimate,
    unknown,
)
from accord.feedback.gold import Gold, gold_test
from accord.feedback.votes import Vote, first_votes

FALSE_ALARMS = 0.01  # per team and kind of flag
FEWEST = 10  # observations before a flag is raised
NOTABLE = 0.1  # a smaller departure, however certain, is not worth a flag
READING = 150.0  # characters a second, or 1,500 words a minute: nobody reads faster
TOO_FAST_SHARE = 0.2

FlagKind = Literal["speed", "straight-lining", "side", "length", "agreement", "gold"]


@dataclass(frozen=True)
class Flag:
    kind: FlagKind
    evidence: str


@dataclass(frozen=True)
class RaterQuality:
    """See `rater_quality`."""

    rater: str
    n: int
    ties: int
    agreement: Estimate
    with_majority: Estimate
    gold: Gold
    left: Estimate
    left_p_value: float | None
    longer: Estimate
    longer_than_others: Estimate
    longer_p_value: float | None
    consistency: Estimate
    seconds: Estimate
    longest_run: int
    longest_run_p_value: float | None
    flags: tuple[Flag, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rater_quality(
    votes: Sequence[Vote],
    *,
    gold: Mapping[str, Sequence[bool]] | None = None,
    lengths: Mapping[str, float] | None = None,
    n_boot: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[RaterQuality]:
    """Every rater's numbers, by name. `votes` are in order of time; see `votes.checked_votes`.

    Answers to gold questions and blind repeats count for `gold` and `consistency`, and for nothing else.
    `gold`: whether each rater's answers to gold questions are right (`gold.gold_answers`); whoever is named
    there has her numbers here, even if she judged no pair. `lengths`: characters by completion id. Without
    them what needs them is unknown. Ties have no part in agreement, side and length.
    """
    checked = defaultdict[str, list[Vote]](list)
    for vote in votes:
        checked[vote.rater].append(vote)
    votes = [vote for vote in votes if vote.purpose == "judge"]
    limit = FALSE_ALARMS / max(len(checked), 1)
    answered = gold or {}
    by_rater = {name: [v for v in checked[name] if v.purpose == "judge"] for name in {*checked, *answered}}
    scores = {name: _agreement_scores(name, votes) for name in by_rater}
    settings = confidence, n_boot, seed
    found = []
    for name in sorted(by_rater):
        quality = _measure(name, votes, scores[name], lengths, settings)
        test = gold_test(answered.get(name, ()), confidence=confidence)
        quality = replace(quality, gold=test, consistency=_consistency(checked[name], confidence))
        others = [other for other in by_rater if other != name]
        flags = (
            _agreement_flag(*scores[name], [scores[other] for other in others], limit),
            _gold_flag(quality.gold),
            _side_flag(quality, limit),
            _length_flag(quality, limit),
            _run_flag(quality, limit),
            _speed_flag(by_rater[name], [by_rater[o] for o in others if by_rater[o]], lengths),
        )
        found.append(replace(quality, flags=tuple(flag for flag in flags if flag is not None)))
    return found


def _measure(
    name: str,
    votes: Sequence[Vote],
    scores: tuple[Floats, Floats],
    lengths: Mapping[str, float] | None,
    settings: tuple[float, int, int],
) -> RaterQuality:
    """What votes tell, without the flags; `settings` are confidence, resamples and seed."""
    confidence, n_boot, seed = settings
    own = [vote for vote in votes if vote.rater == name]
    run, run_p = _longest_run(own, [vote for vote in votes if vote.rater != name])
    left, left_p = _left(own, confidence)
    longer, excess, excess_p = _length(name, votes, lengths, confidence)
    seconds = np.array([vote.seconds for vote in own])
    return RaterQuality(
        rater=name,
        n=len(own),
        ties=sum(vote.strength == 0 for vote in own),
        agreement=_agreement(*scores, n_boot, confidence, seed),
        with_majority=_with_majority(name, votes, confidence),
        gold=gold_test(()),
        left=left,
        left_p_value=left_p,
        longer=longer,
        longer_than_others=excess,
        longer_p_value=excess_p,
        consistency=unknown("answered no pair twice"),
        seconds=median_estimate(seconds, "median active seconds per answer", confidence=confidence)
        if own
        else unknown("judged no pair that was no check"),
        longest_run=run,
        longest_run_p_value=run_p,
        flags=(),
    )


# ------------------------------------------------------------------------------------------ agreement


def _agreement_scores(name: str, votes: Sequence[Vote]) -> tuple[Floats, Floats]:
    """For each of her decided pairs with other decided votes: how many of those agree, and their number."""
    decided = [vote for vote in first_votes(votes) if vote.winner]
    own = {vote.pair: vote.winner for vote in decided if vote.rater == name}
    n, hit = Counter[str](), Counter[str]()
    for vote in decided:
        if vote.rater != name and vote.pair in own:
            n[vote.pair] += 1
            hit[vote.pair] += vote.winner == own[vote.pair]
    return np.array([float(hit[pair]) for pair in n]), np.array([float(n[pair]) for pair in n])


def _agreement(hit_I: Floats, n_I: Floats, n_boot: int, confidence: float, seed: int) -> Estimate:
    if len(n_I) == 0:
        return unknown("shares no decided pair with another rater")
    low, high = share_bounds(hit_I, n_I, n_boot, confidence, seed)
    meaning = "probability of choosing the same answer as another rater; 0.5 is chance"
    return Estimate(float(hit_I.sum() / n_I.sum()), low, high, len(n_I), meaning)


def _with_majority(name: str, votes: Sequence[Vote], confidence: float) -> Estimate:
    """Against the sign of the others' summed winners, where that is not 0."""
    first = first_votes(votes)
    own = {vote.pair: vote.winner for vote in first if vote.rater == name and vote.winner}
    balance = Counter[str]()
    for vote in first:
        if vote.rater != name and vote.pair in own:
            balance[vote.pair] += vote.winner
    clear = {pair: b for pair, b in balance.items() if b}
    hits = sum((b > 0) == (own[pair] > 0) for pair, b in clear.items())
    if not clear:
        return unknown("no pair of hers has a majority among the others")
    meaning = "share of pairs on which she sides with the majority of the others"
    return share_estimate(hits, len(clear), meaning, confidence=confidence)


def _agreement_flag(
    hit_I: Floats, n_I: Floats, others: Sequence[tuple[Floats, Floats]], limit: float
) -> Flag | None:
    """Her agreement per pair against what the others have on average (t-test, lower tail)."""
    total = sum(float(n.sum()) for _, n in others)
    if len(n_I) < FEWEST or total == 0:
        return None
    usual = sum(float(hit.sum()) for hit, _ in others) / total
    share_I = hit_I / n_I
    if share_I.mean() > usual - NOTABLE or _t_tail(share_I - usual) > limit:
        return None
    reversed_ = _t_tail(share_I - 0.5) <= limit
    more = "; below chance: the scale may be the wrong way round" if reversed_ else ""
    return Flag(
        "agreement",
        f"agrees with another rater in {share_I.mean():.0%} of {len(n_I)} pairs, the others do in {usual:.0%}"
        + more,
    )


def _t_tail(difference_I: Floats) -> float:
    """P-value that the mean is below 0; where all are alike, of a t-test with a little spread added."""
    spread = max(float(difference_I.std(ddof=1)), 1 / len(difference_I))
    t = float(difference_I.mean()) / spread * np.sqrt(len(difference_I))
    return float(stats.t.cdf(t, len(difference_I) - 1))


# ------------------------------------------------------------------------------------- gold, leanings


def _gold_flag(gold: Gold) -> Flag | None:
    if gold.verdict != "guessing":
        return None
    n, value = gold.accuracy.n, gold.accuracy.value
    more = "" if gold.may_exclude else "; too few to exclude anybody"
    return Flag("gold", f"{value:.0%} of {n} gold questions right: the sequential test says guessing{more}")


def _left(own: Sequence[Vote], confidence: float) -> tuple[Estimate, float | None]:
    """The share of decided answers for the left one, and the exact binomial p-value against ½."""
    decided = [vote.displayed > 0 for vote in own if vote.strength]
    if not decided:
        return unknown("decided no pair"), None
    meaning = "share of decided answers for the left one; sides are random, so 0.5 without a lean"
    estimate = share_estimate(sum(decided), len(decided), meaning, confidence=confidence)
    return estimate, float(stats.binomtest(sum(decided), len(decided)).pvalue)


def _side_flag(quality: RaterQuality, limit: float) -> Flag | None:
    left, p = quality.left.value, quality.left_p_value
    if left is None or p is None or quality.left.n < FEWEST or p > limit or abs(left - 0.5) < NOTABLE:
        return None
    return Flag(
        "side", f"chose the left answer in {left:.0%} of {quality.left.n} decided pairs (p = {p:.1e})"
    )


def _length(
    name: str, votes: Sequence[Vote], lengths: Mapping[str, float] | None, confidence: float
) -> tuple[Estimate, Estimate, float | None]:
    """How often she chooses the longer answer; how much more often than others on the same pairs.

    The second is the mean over pairs of her choice minus the others' mean. Raters who are exchangeable have
    mean 0 whatever the worth of length, which her share alone cannot tell.
    """
    if lengths is None:
        why = unknown("the answers' lengths were not given")
        return why, why, None
    longer: dict[str, list[bool]] = defaultdict(list)
    own: dict[str, bool] = {}
    for vote in first_votes(votes):
        gap = lengths.get(vote.first, 0.0) - lengths.get(vote.second, 0.0)
        if vote.winner and gap:
            if vote.rater == name:
                own[vote.pair] = vote.winner * gap > 0
            else:
                longer[vote.pair].append(vote.winner * gap > 0)
    meaning = "share of decided answers for the longer one; what others choose says whether that is much"
    share = share_estimate(sum(own.values()), len(own), meaning, confidence=confidence)
    excess_I = np.array([own[p] - np.mean(longer[p]) for p in own if p in longer])
    if len(excess_I) < 2:
        return share, unknown("fewer than two pairs shared with others", len(excess_I)), None
    mean, spread = float(excess_I.mean()), float(excess_I.std(ddof=1)) or 1 / len(excess_I)
    reach = float(stats.t.ppf((1 + confidence) / 2, len(excess_I) - 1)) * spread / np.sqrt(len(excess_I))
    p = 2 * float(stats.t.sf(abs(mean) / spread * np.sqrt(len(excess_I)), len(excess_I) - 1))
    meaning = "share of longer answers chosen minus that of others on the same pairs; 0: no more than others"
    return share, Estimate(mean, mean - reach, mean + reach, len(excess_I), meaning), p


def _length_flag(quality: RaterQuality, limit: float) -> Flag | None:
    excess, p = quality.longer_than_others, quality.longer_p_value
    if excess.value is None or p is None or excess.n < FEWEST or p > limit or abs(excess.value) < NOTABLE:
        return None
    more = "more" if excess.value > 0 else "less"
    return Flag(
        "length",
        f"chose the longer answer {abs(excess.value):.0%} {more} often than others on {excess.n} shared "
        f"pairs (p = {p:.1e})",
    )


# ----------------------------------------------------------------------------------- herself, her pace


def _consistency(own: Sequence[Vote], confidence: float) -> Estimate:
    """Blind repeats: the same winner as the time before, whichever side it stood on."""
    last: dict[str, int] = {}
    same = []
    for vote in own:
        if vote.pair in last:
            same.append(last[vote.pair] == vote.winner)
        last[vote.pair] = vote.winner
    if not same:
        return unknown("answered no pair twice")
    meaning = "share of repeated questions with the same winner as before"
    return share_estimate(sum(same), len(same), meaning, confidence=confidence)


def _longest_run(own: Sequence[Vote], others: Sequence[Vote]) -> tuple[int, float | None]:
    """The longest run of one displayed answer, and a bound on the probability of one as long.

    Were answers drawn one by one with the others' frequencies p_v, a given stretch of L answers would be all
    v with probability p_v^L, and there are n - L + 1 stretches: p <= Σ_v (n - L + 1) p_v^L.
    """
    run = max((len(list(same)) for _, same in itertools.groupby(v.displayed for v in own)), default=0)
    if not others:
        return run, None
    counts = Counter(vote.displayed for vote in others)
    p_V = np.array([(counts[v] + 1) / (len(others) + 7) for v in range(-3, 4)])
    return run, min(1.0, float((len(own) - run + 1) * (p_V**run).sum()))


def _run_flag(quality: RaterQuality, limit: float) -> Flag | None:
    p = quality.longest_run_p_value
    if p is None or quality.n < FEWEST or p > limit:
        return None
    return Flag(
        "straight-lining",
        f"gave the same answer on the screen {quality.longest_run} times in a row (p < {p:.1e})",
    )


def _speed_flag(
    own: Sequence[Vote], others: Sequence[Sequence[Vote]], lengths: Mapping[str, float] | None
) -> Flag | None:
    """Faster than anybody reads, where lengths are known; else far faster than the team."""
    if len(own) < FEWEST:
        return None
    if lengths is not None:
        fast = [v.seconds < (lengths.get(v.first, 0) + lengths.get(v.second, 0)) / READING for v in own]
        if np.mean(fast) > TOO_FAST_SHARE:
            return Flag(
                "speed", f"{sum(fast)} of {len(own)} answers came faster than 1,500 words a minute are read"
            )
    medians = np.log([max(float(np.median([v.seconds for v in some])), 1e-3) for some in others])
    if len(medians) < 4:
        return None
    mine = float(np.log(max(float(np.median([v.seconds for v in own])), 1e-3)))
    usual = float(np.median(medians))
    spread = max(1.4826 * float(np.median(np.abs(medians - usual))), 0.1)
    if (mine - usual) / spread > -3.5 or mine > usual - np.log(2):
        return None
    return Flag("speed", f"median of {np.exp(mine):.1f} s per answer, the team's is {np.exp(usual):.1f} s")
