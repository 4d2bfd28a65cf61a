"""Pairs that an adjudicator settled: how many, and how often the majority had been right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from accord.feedback.estimates import Estimate, share_estimate, unknown
from accord.feedback.votes import Vote, adjudications_of, first_votes, votes_of
from accord.records import Judgement


@dataclass(frozen=True)
class Adjudicated:
    n: int
    majority_right: Estimate


def adjudicated(judgements: Sequence[Judgement], *, confidence: float = 0.95) -> Adjudicated:
    """The majority is the sign of the sum of winners; it is right where the adjudicator names the same one.

    Pairs without a majority, and those that she calls equal, have no part in the share.
    """
    settled = {vote.pair: vote for vote in adjudications_of(judgements)}
    balance = defaultdict[str, int](int)
    votes: list[Vote] = first_votes(votes_of(judgements))
    for vote in votes:
        balance[vote.pair] += vote.winner
    both = ((balance[pair], vote.winner) for pair, vote in settled.items())
    decided = [(majority, winner) for majority, winner in both if majority and winner]
    if not decided:
        why = "no pair with a majority was settled by an adjudicator who named a winner"
        return Adjudicated(len(settled), unknown(why))
    right = sum((majority > 0) == (winner > 0) for majority, winner in decided)
    meaning = "how often the majority had named the adjudicator's winner, among pairs that raters disputed"
    return Adjudicated(len(settled), share_estimate(right, len(decided), meaning, confidence=confidence))
