"""Judgements as the statistics want them: one vote per answer, a pair's two sides in one order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from accord.errors import DataError
from accord.feedback.ratings import Rating
from accord.records import Judgement, Purpose


@dataclass(frozen=True)
class Vote:
    """One answer. `strength` > 0 means that the pair's first completion (by id) is better.

    Slots may differ between a question and its blind repeat; the order of completion ids does not.
    """

    judgement_id: str
    item_id: str
    rater: str
    prompt: str
    first: str
    second: str
    first_is_slot_0: bool
    first_is_left: bool
    strength: int
    seconds: float
    guideline: str
    purpose: Purpose = "judge"

    @property
    def pair(self) -> str:
        """Names the two completions: a question and its blind repeat have the same."""
        return f"{self.first}|{self.second}"

    @property
    def displayed(self) -> int:
        """The strength as the rater gave it: positive for the left answer."""
        return self.strength if self.first_is_left else -self.strength

    @property
    def winner(self) -> int:
        """1 for the first completion, -1 for the second, 0 for a tie."""
        return (self.strength > 0) - (self.strength < 0)


def votes_of(judgements: Iterable[Judgement]) -> list[Vote]:
    """The votes in the order given; of a rater's revisions of one item the last counts.

    Answers for another purpose are none: gold questions, blind repeats, and what settles a pair.
    Rankings are left out: their pairs are no answers of their own (see `feedback/rankings.py`).
    DataError for a judgement of other than two completions or of a strength outside -3..3.
    """
    return _answers(judgements, ("judge",))


def checked_votes(judgements: Iterable[Judgement]) -> list[Vote]:
    """The votes with the answers to gold questions and blind repeats among them, in the order given."""
    return _answers(judgements, ("judge", "repeat", "gold"))


def adjudications_of(judgements: Iterable[Judgement]) -> list[Vote]:
    """The answers that settle a pair."""
    return _answers(judgements, ("adjudicate",))


def _answers(judgements: Iterable[Judgement], purposes: Sequence[Purpose]) -> list[Vote]:
    last: dict[tuple[str, str, str], Judgement] = {}
    for judged in judgements:
        if judged.purpose not in purposes:
            continue
        if judged.ranks:
            continue
        key = judged.item_id, judged.rater, judged.purpose
        if key not in last or judged.revision >= last[key].revision:
            last[key] = judged
    return [_vote(judged) for judged in last.values()]


def _vote(judged: Judgement) -> Vote:
    if len(judged.completion_ids) != 2 or sorted(judged.shown) != [0, 1]:
        raise DataError(
            f"judgement {judged.id}: {len(judged.completion_ids)} answers, shown as {judged.shown}; these "
            "statistics are for pairs"
        )
    if not -3 <= judged.strength <= 3:
        raise DataError(f"judgement {judged.id}: strength {judged.strength} is outside -3..3")
    straight = judged.completion_ids[0] <= judged.completion_ids[1]
    first, second = judged.completion_ids if straight else judged.completion_ids[::-1]
    return Vote(
        judgement_id=judged.id,
        item_id=judged.item_id,
        rater=judged.rater,
        prompt=judged.prompt_id,
        first=first,
        second=second,
        first_is_slot_0=straight,
        first_is_left=(judged.shown[0] == 0) == straight,
        strength=judged.strength if straight else -judged.strength,
        seconds=judged.seconds,
        guideline=judged.guideline,
        purpose=judged.purpose,
    )


def first_votes(votes: Sequence[Vote]) -> list[Vote]:
    """Without blind repeats: each rater's first vote on each pair."""
    kept: dict[tuple[str, str], Vote] = {}
    for vote in votes:
        kept.setdefault((vote.pair, vote.rater), vote)
    return list(kept.values())


def strength_ratings(votes: Sequence[Vote]) -> list[Rating]:
    """First votes as numbers from -3 to 3, for ordinal statistics."""
    return [Rating(vote.pair, vote.rater, float(vote.strength)) for vote in first_votes(votes)]


def winner_ratings(votes: Sequence[Vote]) -> list[Rating]:
    """First votes as who won, for nominal statistics; a tie is a winner of its own."""
    names = {1: "first", -1: "second", 0: "tie"}
    return [Rating(vote.pair, vote.rater, names[vote.winner]) for vote in first_votes(votes)]
