"""What a pair's judgements add up to: one label, margin and weight for the reward model.

Raw votes let a careless click pull as hard as a careful answer. Here each pair gets one label, by the
majority or by the reliability model, and names every judgement that it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from accord.errors import DataError
from accord.feedback.copying import copy_weights, find_copying
from accord.feedback.reliability import fit_reliability
from accord.feedback.votes import Vote, adjudications_of, first_votes, votes_of
from accord.records import Judgement, Preference

Aggregate = Literal["majority", "reliability"]


@dataclass(frozen=True)
class PairLabel:
    """One pair; `first` and `second` are completion ids, and `judgement_ids` all that was said of it.

    `p_first` is the probability that the first is better: 1, 0 or a half of a majority. `margin` is the
    strength of the preference, from 0 to 3, towards the better one. A hard label with this `weight` pulls a
    reward model that knows nothing yet exactly as the soft label p_first would with weight 1:
    the gradient of both in r_first - r_second is p_first - 1/2 there.
    """

    first: str
    second: str
    p_first: float
    margin: float
    weight: float
    judgement_ids: tuple[str, ...]

    @property
    def tie(self) -> bool:
        return self.p_first == 0.5


@dataclass(frozen=True)
class Labels:
    """See `pair_labels`. `note` says why the reliability model could not be used, else it is empty."""

    pairs: tuple[PairLabel, ...]
    how: Aggregate
    note: str = ""


def pair_labels(
    judgements: Sequence[Judgement], how: Aggregate, *, lengths: Mapping[str, float] | None = None
) -> Labels:
    """One label for each pair that was judged, in the order of the first judgement.

    "majority": the sign of the sum of winners, each rater once; the margin is the mean strength towards it.
    "reliability": the model of `reliability.py` on all these judgements, with the votes of raters who are
    suspected of copying shared among them. Where no pair was judged twice it cannot be fitted, and the
    majority is taken instead; `note` says so. `lengths`: of completions, by id, in any unit.

    A pair that an adjudicator settled has her answer as its label, whatever the votes say.
    """
    votes = votes_of(judgements)
    settled = {vote.pair: vote for vote in adjudications_of(judgements)}
    by_pair: dict[str, list[Vote]] = {pair: [] for pair in settled}
    for vote in votes:
        by_pair.setdefault(vote.pair, []).append(vote)
    if not by_pair:
        raise DataError("there are no judgements to make labels of")
    if how == "majority" or not votes:
        made = [_settled(settled[p], v) if p in settled else _majority(v) for p, v in by_pair.items()]
        return Labels(tuple(made), how)
    weights = copy_weights(votes, find_copying(votes))
    fitted = fit_reliability(votes, lengths=lengths, weights=weights)
    if fitted.undefined_because:
        why = f"{fitted.undefined_because}; the majority is taken instead"
        return replace(pair_labels(judgements, "majority"), note=why)
    found = {pair.pair: pair for pair in fitted.pairs}
    made = []
    for name, some in by_pair.items():
        if name in settled:
            made.append(_settled(settled[name], some))
            continue
        pair = found[name]
        towards = 1 if pair.p_better >= 0.5 else -1
        margin = max(0.0, towards * pair.margin)
        ids = tuple(vote.judgement_id for vote in some)
        made.append(PairLabel(pair.first, pair.second, pair.p_better, margin, pair.weight, ids))
    return Labels(tuple(made), how)


def _settled(by: Vote, votes: Sequence[Vote]) -> PairLabel:
    p = {1: 1.0, -1: 0.0, 0: 0.5}[by.winner]
    ids = (by.judgement_id, *(vote.judgement_id for vote in votes))
    return PairLabel(by.first, by.second, p, float(abs(by.strength)), 1.0, ids)


def _majority(votes: Sequence[Vote]) -> PairLabel:
    first = first_votes(votes)
    balance = sum(vote.winner for vote in first)
    p = 1.0 if balance > 0 else 0.0 if balance < 0 else 0.5
    mean = sum(vote.strength for vote in first) / len(first)
    margin = max(0.0, mean if balance > 0 else -mean) if balance else 0.0
    ids = tuple(vote.judgement_id for vote in votes)
    return PairLabel(votes[0].first, votes[0].second, p, margin, 1.0, ids)


def aggregate_preferences(
    preferences: Sequence[Preference], judgements: Sequence[Judgement], how: Aggregate
) -> tuple[list[Preference], str]:
    """One preference a pair from one a judgement, and the note of `pair_labels`.

    The provenance is every judgement behind it. `preferences` are those of these judgements, in any order.
    The pairs of rankings stay as they are: they are not answers of their own to be counted.
    """
    of = {judged.id: judged for judged in judgements}
    texts: dict[str, str] = {}
    prompts = {}
    for said in preferences:
        judged = of[said.provenance[0]]
        if judged.ranks:
            continue
        slots = (said.chosen, said.rejected) if judged.strength >= 0 else (said.rejected, said.chosen)
        texts.update(zip(judged.completion_ids, slots, strict=True))
        prompts[judged.id] = said.prompt
    found = [said for said in preferences if of[said.provenance[0]].ranks]
    if len(found) == len(preferences):
        return found, ""
    labels = pair_labels(judgements, how, lengths={i: float(len(text)) for i, text in texts.items()})
    for pair in labels.pairs:
        better, worse = (pair.first, pair.second) if pair.p_first >= 0.5 else (pair.second, pair.first)
        found.append(
            Preference(
                prompt=prompts[pair.judgement_ids[0]],
                chosen=texts[better],
                rejected=texts[worse],
                margin=pair.margin,
                weight=pair.weight,
                tie=pair.tie,
                provenance=pair.judgement_ids,
            )
        )
    return found, labels.note
