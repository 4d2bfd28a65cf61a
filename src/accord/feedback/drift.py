"""Whether feedback changes: by guideline version, over time, and between consenting groups of raters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from accord.errors import DataError
from accord.feedback.agreement import agreement
from accord.feedback.estimates import Estimate, Floats, share_bounds, share_estimate, unknown
from accord.feedback.votes import Vote, first_votes, strength_ratings

FEWEST_PEOPLE = 5  # a figure of fewer would be about persons
FEWEST_PAIRS = 20  # before a change is looked for

_BLOCK = 2_000_000


@dataclass(frozen=True)
class Part:
    """Agreement within one part of the votes: a guideline version, or a stretch of time."""

    name: str
    start: str  # times of the first and the last vote; empty when not known
    end: str
    n_votes: int
    n_raters: int
    raw: Estimate  # same winner, two raters who both decided
    alpha: Estimate  # ordinal, on strengths
    left: Estimate


@dataclass(frozen=True)
class Change:
    """See `change_point`. Without enough pairs p_value is None, and `meaning` says so."""

    at: str  # time of the first pair after the change
    before: Estimate
    after: Estimate
    p_value: float | None
    meaning: str


@dataclass(frozen=True)
class GroupAgreement:
    """Raters who share an attribute, and how they agree among themselves and with all others."""

    group: str
    n_people: int
    within: Estimate
    with_others: Estimate


def by_guideline(
    votes: Sequence[Vote], times: Mapping[str, str] | None = None, *, n_boot: int = 1000, seed: int = 0
) -> list[Part]:
    """Agreement under each guideline, in the order of the votes; only votes under the same are compared."""
    parts = defaultdict[str, list[Vote]](list)
    for vote in votes:
        parts[vote.guideline].append(vote)
    return [_part(name, some, times or {}, n_boot, seed) for name, some in parts.items()]


def over_time(
    votes: Sequence[Vote], times: Mapping[str, str], *, windows: int = 8, n_boot: int = 1000, seed: int = 0
) -> list[Part]:
    """Agreement in consecutive windows with equally many pairs, by the time of each pair's last answer.

    `times` (by judgement id) are texts that sort as time does. Pairs of a single vote have no part.
    DataError for fewer than one window, or a vote without a time.
    """
    if windows < 1:
        raise DataError(f"windows must be at least 1, not {windows}")
    shared = _in_time(votes, times)
    pieces = np.array_split(np.arange(len(shared)), min(windows, len(shared)) or 1)
    found = []
    for i, piece in enumerate(pieces, 1):
        some = [vote for p in piece for vote in shared[p][1]]
        if some:
            found.append(_part(f"window {i}", some, times, n_boot, seed))
    return found


def change_point(
    votes: Sequence[Vote], times: Mapping[str, str], *, n_permutations: int = 1999, seed: int = 0
) -> Change:
    """The moment at which agreement changed most, and how likely chance is to make as much of a change.

    For pairs in the order of time with agreement x_i, the statistic is the greatest over k of
    |Σ_{i<=k} (x_i - mean)| / √(k (n - k) / n), each side having at least a tenth of the pairs. Under no
    change all orders are equally likely, so its p-value is its rank among random permutations (exact at any
    n; Pitman 1937). DataError for a vote without a time.
    """
    shared = [(time, some) for time, some in _in_time(votes, times) if _pair_agreement(some) is not None]
    score_I = np.array([_pair_agreement(some) or 0.0 for _, some in shared])
    n = len(score_I)
    if n < FEWEST_PAIRS or np.ptp(score_I) == 0:
        why = "all pairs agree alike" if n >= FEWEST_PAIRS else f"fewer than {FEWEST_PAIRS} shared pairs"
        return Change("", unknown(why, n), unknown(why, n), None, f"a change cannot be looked for: {why}")
    rng = np.random.default_rng(seed)
    margin = max(5, n // 10)
    (seen,), (at,) = _greatest_split(score_I[None], margin)
    reached = 0
    for start in range(0, n_permutations, max(1, _BLOCK // n)):
        size = min(max(1, _BLOCK // n), n_permutations - start)
        shuffled_BI = rng.permuted(np.broadcast_to(score_I, (size, n)), axis=1)
        reached += int((_greatest_split(shuffled_BI, margin)[0] >= seen - 1e-12).sum())
    meaning = (
        "chance of a change at least as large if nothing changed; below 0.05, look at what happened then"
    )
    return Change(
        at=shared[at][0],
        before=_mean_estimate(score_I[:at]),
        after=_mean_estimate(score_I[at:]),
        p_value=(1 + reached) / (1 + n_permutations),
        meaning=meaning,
    )


def by_group(
    votes: Sequence[Vote], groups: Mapping[str, str], *, n_boot: int = 1000, seed: int = 0
) -> tuple[list[GroupAgreement], str]:
    """Agreement within each group of raters and of its raters with all others; and what was withheld.

    `groups`: the group by rater, of those who agreed to its use. A group of fewer than 5 people who judged
    has no figures and is not named. Should the withheld be fewer than 5 people altogether, the smallest
    group is withheld with them, so that nobody is found by taking one figure from another.
    """
    people = defaultdict[str, set[str]](set)
    for vote in votes:
        if vote.rater in groups:
            people[groups[vote.rater]].add(vote.rater)
    by_size = sorted(people, key=lambda group: (len(people[group]), group))
    shown = [group for group in by_size if len(people[group]) >= FEWEST_PEOPLE]
    hidden = sum(len(people[group]) for group in by_size if group not in shown)
    if 0 < hidden < FEWEST_PEOPLE and shown:
        shown = shown[1:]
    withheld = ""
    if len(shown) < len(people):
        withheld = (
            f"groups of fewer than {FEWEST_PEOPLE} people, or from which they could be told, are withheld"
        )
    found = []
    for group in sorted(shown):
        within, across = _group_scores(votes, people[group])
        found.append(
            GroupAgreement(
                group,
                len(people[group]),
                _share(within, "same answer, two raters of the group; 0.5 is chance", n_boot, seed),
                _share(across, "same answer, one of the group and one outside; 0.5 is chance", n_boot, seed),
            )
        )
    return found, withheld


# ------------------------------------------------------------------------------------------- the parts


def _part(name: str, votes: Sequence[Vote], times: Mapping[str, str], n_boot: int, seed: int) -> Part:
    when = sorted(times[vote.judgement_id] for vote in votes if vote.judgement_id in times)
    found = agreement(strength_ratings(votes), level="ordinal", n_boot=n_boot, seed=seed)
    meaning = "Krippendorff's alpha on strengths: 0 is chance, 1 perfect"
    alpha = unknown(found.alpha_undefined_because, found.n_pairable)
    if found.alpha is not None:
        alpha = Estimate(found.alpha, found.alpha_low, found.alpha_high, found.n_pairable, meaning)
    decided = [vote.displayed > 0 for vote in votes if vote.strength]
    return Part(
        name=name,
        start=when[0] if when else "",
        end=when[-1] if when else "",
        n_votes=len(votes),
        n_raters=len({vote.rater for vote in votes}),
        raw=_share(
            list(_decided_pairs(votes).values()), "same answer, two raters; 0.5 is chance", n_boot, seed
        ),
        alpha=alpha,
        left=share_estimate(
            sum(decided), len(decided), "decided answers for the left one; 0.5 without a lean"
        ),
    )


def _by_pair(votes: Sequence[Vote]) -> dict[str, list[Vote]]:
    pairs = defaultdict[str, list[Vote]](list)
    for vote in first_votes(votes):
        pairs[vote.pair].append(vote)
    return pairs


def _decided_pairs(votes: Sequence[Vote]) -> dict[str, tuple[float, float]]:
    """By pair that two raters decided: ordered couples of raters who agree, and all of them."""
    found = {}
    for pair, some in _by_pair(votes).items():
        ups, downs = (sum(vote.winner == sign for vote in some) for sign in (1, -1))
        n = ups + downs
        if n > 1:
            found[pair] = (float(ups * (ups - 1) + downs * (downs - 1)), float(n * (n - 1)))
    return found


def _pair_agreement(votes: Sequence[Vote]) -> float | None:
    for agreed, couples in _decided_pairs(votes).values():
        return agreed / couples
    return None


def _in_time(votes: Sequence[Vote], times: Mapping[str, str]) -> list[tuple[str, list[Vote]]]:
    """Pairs with several votes, by the time of the last of them."""
    for vote in votes:
        if vote.judgement_id not in times:
            raise DataError(f"judgement {vote.judgement_id} has no time; give one for every vote")
    shared = [some for some in _by_pair(votes).values() if len(some) > 1]
    timed = [(max(times[vote.judgement_id] for vote in some), some) for some in shared]
    return sorted(timed, key=lambda pair: pair[0])


def _greatest_split(score_BI: Floats, margin: int) -> tuple[Floats, Floats]:
    """The statistic of `change_point` for each row, and after how many pairs it is reached."""
    n = score_BI.shape[1]
    k = np.arange(margin, n - margin + 1)
    centred_BI = score_BI - score_BI.mean(1, keepdims=True)
    size_BK = np.abs(np.cumsum(centred_BI, axis=1)[:, k - 1]) / np.sqrt(k * (n - k) / n)
    return size_BK.max(1), k[size_BK.argmax(1)]


def _group_scores(
    votes: Sequence[Vote], people: set[str]
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """By pair: agreeing and all couples within the people, and of them with others."""
    within = list(_decided_pairs([vote for vote in votes if vote.rater in people]).values())
    across = []
    for some in _by_pair(votes).values():
        inside = [vote.winner for vote in some if vote.winner and vote.rater in people]
        outside = [vote.winner for vote in some if vote.winner and vote.rater not in people]
        if inside and outside:
            agreed = sum(one == other for one in inside for other in outside)
            across.append((float(agreed), float(len(inside) * len(outside))))
    return within, across


def _share(couples: Sequence[tuple[float, float]], meaning: str, n_boot: int, seed: int) -> Estimate:
    """The share of couples that agree, with an interval over pairs."""
    if not couples:
        return unknown("no pair was decided by two raters")
    hit_I, n_I = np.array(couples).T
    low, high = share_bounds(hit_I, n_I, n_boot, 0.95, seed)
    return Estimate(float(hit_I.sum() / n_I.sum()), low, high, len(couples), meaning)


def _mean_estimate(score_I: Floats) -> Estimate:
    return _share([(float(x), 1.0) for x in score_I], "mean agreement of a pair's raters", 1000, 0)
