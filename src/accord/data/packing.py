"""Documents packed into rows, each attending to itself only.

A document is a start token, its text and an end token. Its inputs are all but the end, its targets all but
the start, so every token of every text, and every end, is learned exactly once. Documents longer than a row
are cut; the others are kept whole and put into the fullest row that still has room (best-fit decreasing, Ding
et al. 2024, "Fewer truncations improve language modeling", arXiv 2404.10830).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from accord.data.batches import GroupBatch, Segment, _padded, _real


@dataclass(frozen=True)
class Piece:
    """Neighbouring tokens of one document: what is read, and at each place what comes next."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    document: int


Row = tuple[Piece, ...]


def pieces(documents: Sequence[Sequence[int]], length: int, *, start: int, end: int) -> list[Piece]:
    """The documents' tokens between `start` and `end`, cut so that no piece has more than `length` inputs.

    A later piece of a document does not see the earlier ones: its positions begin at 0 again.
    """
    found = []
    for number, ids in enumerate(documents):
        whole = (start, *ids, end)
        for first in range(0, len(whole) - 1, length):
            part = whole[first : first + length + 1]
            found.append(Piece(tuple(part[:-1]), tuple(part[1:]), number))
    return found


def pack(parts: Sequence[Piece], length: int, *, shared: bool = True) -> list[Row]:
    """Rows of at most `length` tokens that together hold every piece once; deterministic.

    Without `shared` (models that cannot keep neighbours apart) each piece has its own row.
    """
    if not shared:
        return [(piece,) for piece in parts]
    rows: list[list[Piece]] = []
    room: list[tuple[int, int]] = []  # (free places, row), fullest first
    for piece in sorted(parts, key=lambda p: -len(p.inputs)):
        at = bisect_left(room, (len(piece.inputs), -1))
        free, row = room.pop(at) if at < len(room) else (length, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(piece)
        if free > len(piece.inputs):
            insort(room, (free - len(piece.inputs), row))
    return [tuple(row) for row in rows]


def collate_rows(rows: Sequence[Row], *, shared: bool = True) -> GroupBatch:
    """Rows as a batch whose segments are the pieces; row c's targets are "completion" c.

    With `shared` the rows lie one behind the other; without, which needs rows of one piece, each is a row.
    """
    length = max(sum(len(p.inputs) for p in row) for row in rows)
    inputs = [[i for p in row for i in p.inputs] for row in rows]
    targets = [[t for p in row for t in p.targets] for row in rows]
    places = [[i for p in row for i in range(len(p.inputs))] for row in rows]
    sizes = torch.tensor([len(row) for row in inputs])
    first = sizes.cumsum(0) - sizes if shared else length * torch.arange(len(rows))
    mask_CT = _real(inputs, length)
    lines, width = (
        (inputs, length) if not shared else ([[i for row in inputs for i in row]], int(sizes.sum()))
    )
    starts = places if not shared else [[i for row in places for i in row]]
    return GroupBatch(
        input_ids_BL=_padded(lines, width),
        position_ids_BL=_padded(starts, width),
        real_BL=_real(lines, width),
        where_CT=(first[:, None] + torch.arange(length)) * mask_CT,
        targets_CT=_padded(targets, length),
        mask_CT=mask_CT,
        last_C=first + sizes - 1,
        group_C=torch.arange(len(rows)),
        segments=tuple(Segment(len(p.inputs)) for row in rows for p in row) if shared else (),
    )


def microbatches(rows: Sequence[Row], tokens: int) -> list[list[Row]]:
    """The rows in lists of at most `tokens` padded tokens, longest first; a longer row is alone."""
    found: list[list[Row]] = []
    longest = 0
    for row in sorted(rows, key=lambda row: -sum(len(p.inputs) for p in row)):
        if found and (len(found[-1]) + 1) * longest <= tokens:
            found[-1].append(row)
        else:
            found.append([row])
            longest = sum(len(p.inputs) for p in row)
    return found
