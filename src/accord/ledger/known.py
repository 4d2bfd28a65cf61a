"""Questions whose answer is known: which of the answers are better than which others, beyond doubt.

Of a pair that is one comparison. A ranking's order can be corrected: the newest version is in force. What
somebody says of a question is right or wrong as a whole by `is_right`, so that the sequential test counts
pairs and rankings alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise, product
from typing import Any

from sqlalchemy import Connection, insert, select

from accord.ledger import audit, rankings
from accord.ledger.rankings import WrongAnswerError
from accord.ledger.store import canonical_json, chunks
from accord.ledger.team_schema import gold, gold_order

LETTERS = "ABCDEFGHI"

Known = tuple[tuple[int, int], ...]  # (the better slot, the other), with all that follows; () for nothing


# What is known


def closed(pairs: Iterable[tuple[int, int]], answers: int) -> Known:
    """The pairs with all that follows from them. WrongAnswerError for a circle and for slots that are not."""
    found = set(pairs)
    if any(not (0 <= high < answers and 0 <= low < answers) for high, low in found):
        raise WrongAnswerError(f"the order names an answer that is not among the {answers}")
    while more := {(a, d) for (a, b), (c, d) in product(found, found) if b == c} - found:
        found |= more
    if circle := sorted(high for high, low in found if high == low):
        raise WrongAnswerError(f"by this order answer {LETTERS[circle[0]]} would be better than itself")
    return tuple(sorted(found))


def read_order(text: str, answers: int) -> Known:
    """Of "A > B = C > D", or of the parts that are known: "A > C, B > C". The letters are slots.

    Between answers with = nothing is known. WrongAnswerError where it is no such order.
    """
    pairs = set[tuple[int, int]]()
    for chain in filter(str.strip, text.upper().split(",")):
        steps = [[_slot(name, answers) for name in step.split("=")] for step in chain.split(">")]
        pairs |= {pair for better, worse in pairwise(steps) for pair in product(better, worse)}
    return closed(pairs, answers)


def _slot(name: str, answers: int) -> int:
    letter = name.strip()
    if len(letter) != 1 or letter not in LETTERS[:answers]:
        raise WrongAnswerError(
            f"{letter!r} is none of the answers {', '.join(LETTERS[:answers])}: write an order as A > B = C, "
            "or what is known of it as A > C, B > C"
        )
    return LETTERS.index(letter)


def in_words(known: Known, answers: int) -> str:
    """As `read_order` reads it."""
    ranks = [1 + sum(low == slot for _, low in known) for slot in range(answers)]
    whole = {(high, low) for high, low, strength in rankings.compare(ranks) if strength}
    if known and whole == set(known):
        return rankings.in_words(ranks)
    follows = {(a, d) for (a, b), (c, d) in product(known, known) if b == c}
    return ", ".join(f"{LETTERS[high]} > {LETTERS[low]}" for high, low in known if (high, low) not in follows)


# What was said about it


def hits(ranks: Sequence[int], known: Known) -> int:
    """How many of the known comparisons an order has right; a tie is not."""
    return sum(ranks[high] < ranks[low] for high, low in known)


def is_right(ranks: Sequence[int], known: Known) -> bool:
    """More than half of what is known is right; at exactly half, the two that are known to be farthest apart.

    Turning an order without ties round turns right into wrong, so an order drawn at random is right with
    probability 1/2 however much is known, as the sequential test takes it to be of who guesses.
    """
    right = 2 * hits(ranks, known) - len(known)
    return right > 0 or (right == 0 and hits(ranks, (farthest(known),)) == 1)


def farthest(known: Known) -> tuple[int, int]:
    """Of which one has most answers below it and the other most above; of several the first."""

    def apart(pair: tuple[int, int]) -> int:
        high, low = pair
        return sum((b == high) - (a == high) + (a == low) - (b == low) for a, b in known)

    return min(known, key=apart)


# In the ledger


def set_orders(connection: Connection, orders: Mapping[str, Known], now: str) -> None:
    """Note what is known of rankings, by item; () takes back what was noted."""
    latest = _latest(connection, orders)
    new = {item_id: known for item_id, known in orders.items() if latest.get(item_id, (0, ()))[1] != known}
    rows = [
        {
            "item_id": item_id,
            "n": latest.get(item_id, (0, ()))[0] + 1,
            "pairs": canonical_json([list(pair) for pair in known]),
            "created_at": now,
        }
        for item_id, known in new.items()
    ]
    if rows:
        connection.execute(insert(gold_order), rows)
        entries = [audit.Entry("know", "gold_order", _name(row), [row["pairs"]]) for row in rows]
        audit.append(connection, entries, now)


def known_answers(connection: Connection, item_ids: Iterable[str] | None = None) -> dict[str, Known]:
    """What is known of pairs and rankings, by item; of all, or of some."""
    ids = None if item_ids is None else list(item_ids)
    found = {item_id: known for item_id, (_, known) in _latest(connection, ids).items() if known}
    for row in _rows(connection, gold, ids):
        found[row.item_id] = ((0, 1),) if row.strength > 0 else ((1, 0),)
    return found


def _latest(connection: Connection, item_ids: Iterable[str] | None) -> dict[str, tuple[int, Known]]:
    """The newest version's number and content."""
    rows = sorted(_rows(connection, gold_order, item_ids), key=lambda row: row.n)
    return {row.item_id: (row.n, tuple((a, b) for a, b in json.loads(row.pairs))) for row in rows}


def _rows(connection: Connection, table: Any, item_ids: Iterable[str] | None) -> list[Any]:
    if item_ids is None:
        return list(connection.execute(select(table)))
    some = (select(table).where(table.c.item_id.in_(part)) for part in chunks(item_ids))
    return [row for statement in some for row in connection.execute(statement)]


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['item_id']}:{row['n']}"


def details(connection: Connection) -> Iterator[tuple[tuple[str, str], Any]]:
    """What `verify` compares with the audit trail."""
    for row in connection.execute(select(gold_order)).mappings():
        yield ("gold_order", _name(dict(row))), [row["pairs"]]
