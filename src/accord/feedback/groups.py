"""Figures of groups of raters that tell nothing of fewer than five people.

A group is made of whole batches of five people. What is guarded:

- Nothing of fewer than five people has a figure, nor can be had by taking shown groups from everybody: the
  people who judged outside the shown groups are none or at least five, or the smallest group is withheld.
- Nor by taking one question's group from another's that holds it: the larger has five people more, or is the
  same group, or the smaller is withheld.
- Nor by comparing over time: people come and go by batches, and of each batch's people equally many answers
  count, the first 10, 20, 30 ... that all of them have given. So whatever changes is of five people.
- Values are rounded to twentieths, bounds outwards, and counts down to tens.

What is not: whoever knows each person's answers can try every five of them, and in a small team few fit.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from accord.feedback.drift import FEWEST_PEOPLE
from accord.feedback.estimates import Estimate, share_bounds, unknown
from accord.feedback.votes import Vote, first_votes

BLOCK = 10  # answers by which a batch goes on
STEP = 20  # a figure is a multiple of 1 / STEP

Batches = Mapping[str, Sequence[Sequence[str]]]  # by value of one attribute: raters, five each


@dataclass(frozen=True)
class GroupFigures:
    """Of the people who told one value. Figures are rounded; `n_votes` of `n_people` people counted."""

    value: str
    n_people: int
    n_votes: int
    within: Estimate
    across: Estimate
    ties: Estimate
    longer: Estimate


def group_figures(
    votes: Sequence[Vote],
    asked: Mapping[str, Batches],
    *,
    lengths: Mapping[str, float],
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, list[GroupFigures]]:
    """By attribute, the figures of the groups that may be shown; `votes` of everybody, in the order given."""
    by_rater: dict[str, list[Vote]] = defaultdict(list)
    for vote in first_votes(votes):
        by_rater[vote.rater].append(vote)
    counted = {
        name: {value: found for value, groups in batches.items() if (found := _counted(groups, by_rater))}
        for name, batches in asked.items()
    }
    people = {
        name: {value: {v.rater for v in some} for value, some in c.items()} for name, c in counted.items()
    }
    shown = may_be_shown(people, set(by_rater))
    return {
        name: [
            _figures(value, {v: counted[name][v] for v in sorted(values)}, lengths, n_boot, seed)
            for value in sorted(values)
        ]
        for name, values in shown.items()
    }


def _counted(batches: Sequence[Sequence[str]], by_rater: Mapping[str, Sequence[Vote]]) -> list[Vote]:
    """Of each batch's people equally many first answers."""
    found: list[Vote] = []
    for batch in batches:
        if len(set(batch)) < FEWEST_PEOPLE:
            continue
        each = min(len(by_rater.get(rater, ())) for rater in batch) // BLOCK * BLOCK
        for rater in batch:
            found += by_rater.get(rater, ())[:each]
    return found


def may_be_shown(people: Mapping[str, Mapping[str, set[str]]], everybody: set[str]) -> dict[str, set[str]]:
    """By attribute, the values whose figures tell nothing of fewer than five people, alone or with others."""
    shown = {
        name: {value for value, who in groups.items() if len(who) >= FEWEST_PEOPLE}
        for name, groups in people.items()
    }
    while (hidden := _betraying(people, shown, everybody)) is not None:
        shown[hidden[0]].discard(hidden[1])
    return shown


def _betraying(
    people: Mapping[str, Mapping[str, set[str]]], shown: Mapping[str, set[str]], everybody: set[str]
) -> tuple[str, str] | None:
    """A group to withhold, the smallest that betrays others; None when all may be shown."""

    def size(group: tuple[str, str]) -> tuple[int, str, str]:
        return len(people[group[0]][group[1]]), *group

    for name, values in shown.items():
        inside = set().union(*(people[name][value] for value in values))
        if values and 0 < len(everybody - inside) < FEWEST_PEOPLE:
            return min(((name, value) for value in values), key=size)
    groups = sorted(((name, value) for name, values in shown.items() for value in values), key=size)
    for small in groups:
        for large in groups:
            more = people[large[0]][large[1]] - people[small[0]][small[1]]
            if people[small[0]][small[1]] < people[large[0]][large[1]] and len(more) < FEWEST_PEOPLE:
                return small
    return None


def _figures(
    value: str, groups: Mapping[str, Sequence[Vote]], lengths: Mapping[str, float], n_boot: int, seed: int
) -> GroupFigures:
    mine = groups[value]
    others = [vote for name, some in groups.items() if name != value for vote in some]

    def share(couples: Sequence[tuple[float, float]], meaning: str) -> Estimate:
        return _rounded_share(couples, meaning, n_boot, seed)

    return GroupFigures(
        value=value,
        n_people=len({vote.rater for vote in mine}),
        n_votes=len(mine),
        within=share(_within(mine), "same answer, two people of the group; 0.5 is chance"),
        across=share(
            _across(mine, others), "same answer, one of the group and one of another group; 0.5 is chance"
        ),
        ties=share(
            _shares(mine, lambda vote: float(vote.winner == 0)), "how often neither answer was better"
        ),
        longer=share(
            _shares([vote for vote in mine if vote.winner], lambda vote: _longer(vote, lengths)),
            "how often the longer of two answers was chosen",
        ),
    )


def _winners(votes: Sequence[Vote]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for vote in votes:
        if vote.winner:
            found[vote.pair].append(vote.winner)
    return found


def _within(votes: Sequence[Vote]) -> list[tuple[float, float]]:
    """By pair: ordered couples of people who agree, and all of them."""
    found = []
    for said in _winners(votes).values():
        ups, n = said.count(1), len(said)
        if n > 1:
            found.append((float(ups * (ups - 1) + (n - ups) * (n - ups - 1)), float(n * (n - 1))))
    return found


def _across(mine: Sequence[Vote], others: Sequence[Vote]) -> list[tuple[float, float]]:
    found, outside = [], _winners(others)
    for pair, said in _winners(mine).items():
        if pair in outside:
            agreed = sum(one == other for one in said for other in outside[pair])
            found.append((float(agreed), float(len(said) * len(outside[pair]))))
    return found


def _shares(votes: Sequence[Vote], hit: Callable[[Vote], float | None]) -> list[tuple[float, float]]:
    by_pair: dict[str, list[float]] = defaultdict(list)
    for vote in votes:
        if (found := hit(vote)) is not None:
            by_pair[vote.pair].append(found)
    return [(sum(hits), float(len(hits))) for hits in by_pair.values()]


def _longer(vote: Vote, lengths: Mapping[str, float]) -> float | None:
    first, second = lengths.get(vote.first), lengths.get(vote.second)
    if first is None or second is None or first == second:
        return None
    return float((first > second) == (vote.winner > 0))


def _rounded_share(couples: Sequence[tuple[float, float]], meaning: str, n_boot: int, seed: int) -> Estimate:
    """A share with its interval over pairs, too coarse to be of use to who takes one from another."""
    if len(couples) < BLOCK:
        return unknown(f"fewer than {BLOCK} pairs tell it")
    hit_I, n_I = np.array(couples).T
    low, high = share_bounds(hit_I, n_I, n_boot, 0.95, seed)
    return Estimate(
        value=round(STEP * float(hit_I.sum() / n_I.sum())) / STEP,
        low=None if low is None else math.floor(STEP * low) / STEP,
        high=None if high is None else math.ceil(STEP * high) / STEP,
        n=len(couples) // BLOCK * BLOCK,
        meaning=meaning,
    )
