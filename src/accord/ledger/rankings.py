"""Rankings: several answers to one prompt put in order, with ties.

A rank is one more than the number of answers that are better, so that of two best answers both have rank 1
and the next one has 3. Whatever numbers a rater gives, only their order counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations, pairwise

from accord.errors import LedgerError
from accord.records import Judgement, content_hash

FEWEST, MOST = 3, 9  # answers in one ranking; of two, a pair tells more
RANKED = 1  # the strength of a ranking's preferences: it says which answer is better, and not by how much

Compared = tuple[int, int, int]  # the better slot, the other, and the strength; of a tie the lower slot first


class WrongAnswerError(LedgerError):
    """What was said does not answer the question that was asked."""


def check_ranks(ranks: Sequence[int], answers: int) -> None:
    """Raise WrongAnswerError where `ranks` are not one place for each of the answers."""
    whole = all(isinstance(rank, int) and not isinstance(rank, bool) for rank in ranks)
    if len(ranks) != answers or not whole or not all(1 <= rank <= answers for rank in ranks):
        raise WrongAnswerError(
            f"ranks {list(ranks)} do not order {answers} answers: give each displayed answer a whole number "
            f"from 1 (best) to {answers}; equal numbers are ties"
        )


def by_slot(ranks: Sequence[int], shown: Sequence[int]) -> tuple[int, ...]:
    """From places of displayed positions to ranks by slot."""
    placed = dict(zip(shown, ranks, strict=True))
    return tuple(1 + sum(other < placed[slot] for other in ranks) for slot in sorted(placed))


def as_displayed(ranks: Sequence[int], shown: Sequence[int]) -> tuple[int, ...]:
    """From ranks by slot to displayed positions."""
    return tuple(ranks[slot] for slot in shown)


def compare(ranks: Sequence[int]) -> list[Compared]:
    """Each two answers of a ranking; k of them give k(k-1)/2."""
    found = []
    for one, other in combinations(range(len(ranks)), 2):
        high, low = (one, other) if ranks[one] <= ranks[other] else (other, one)
        found.append((high, low, RANKED if ranks[high] < ranks[low] else 0))
    return found


def ranks_from(compared: Iterable[Compared], answers: int = MOST) -> tuple[int, ...]:
    """One more than the number of answers that are better, by slot; also of a pair."""
    better = [low for _, low, strength in compared if strength]
    return tuple(1 + better.count(slot) for slot in range(answers))


def ranks_of(compared: Iterable[Compared], answers: int) -> tuple[int, ...]:
    """The inverse of `compare`; () where the comparisons are not those of one ranking."""
    said = list(compared)
    better = [0] * answers
    for high, low, strength in said:
        if not (0 <= high < answers and 0 <= low < answers):
            return ()
        better[low] += strength > 0
    ranks = tuple(1 + n for n in better)
    return ranks if sorted(said) == sorted(compare(ranks)) else ()


def pair_weight(answers: int) -> float:
    """What each comparison counts that comes from a ranking of so many answers: 1 / (k - 1).

    The comparisons of a ranking share one look at the answers. With this weight each answer counts as much in
    a ranking as in a pair: it takes part in k - 1 comparisons, and their weights sum to 1.
    """
    return 1.0 / (answers - 1)


def comparisons(judged: Judgement) -> list[Judgement]:
    """A judgement as judgements of pairs: itself, or those that its ranking implies.

    These have the ranking's id, because they are no answers of their own to count. Their item is the pair's
    and their slots are in the order of completion ids, so that those of several rankings can be compared.
    """
    if not judged.ranks:
        return [judged]
    slots = sorted(range(len(judged.ranks)), key=lambda slot: judged.completion_ids[slot])
    return [_comparison(judged, one, other) for one, other in combinations(slots, 2)]


def _comparison(judged: Judgement, one: int, other: int) -> Judgement:
    ids = (judged.completion_ids[one], judged.completion_ids[other])
    better = judged.ranks[other] - judged.ranks[one]
    return replace(
        judged,
        item_id=content_hash(["ranked", judged.prompt_id, *ids]),
        completion_ids=ids,
        strength=RANKED * ((better > 0) - (better < 0)),
        shown=(0, 1) if judged.shown.index(one) < judged.shown.index(other) else (1, 0),
        ranks=(),
    )


def in_words(ranks: Sequence[int], names: str = "ABCDEFGHI") -> str:
    """As "B > A = D > C"; "" without ranks."""
    order = sorted(range(len(ranks)), key=lambda answer: (ranks[answer], answer))
    parts = [names[answer] for answer in order]
    signs = ["=" if ranks[a] == ranks[b] else ">" for a, b in pairwise(order)]
    return " ".join(word for pair in zip(parts, [*signs, ""], strict=False) for word in pair if word)


def ranks_said(judged: Judgement) -> tuple[int, ...]:
    """By slot, also of a pair, which is a ranking of two."""
    return judged.ranks or (1 + (judged.strength < 0), 1 + (judged.strength > 0))
