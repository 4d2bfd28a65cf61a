"""Groups to tensors: all groups of a micro-batch in one row, each prompt's tokens once, no padding.

A row is one prompt after the other, each followed by its completions, which cannot see one another: each
attends to its prompt and to itself, and its positions restart where the prompt ends. That gives exactly the
numbers of separate rows (see tests/invariance/test_groups.py) without computing the prompt k times.

Shape letters: B rows, L row length, C completions (groups in order, completions in order), T longest
completion in tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from accord.data.render import Encoded
from accord.errors import DataError


@dataclass(frozen=True)
class Segment:
    """A stretch of the row that attends to itself, causally, and to the segment that it continues."""

    length: int
    after: int | None = None  # that segment's number; a prompt continues nothing


@dataclass(frozen=True)
class GroupBatch:
    """Prompts and completions: one row of segments, or, without segments, ordinary rows padded on the right.

    Positions are named by flat indices `b * L + l`, which fit hidden states of shape (B*L, D).
    """

    input_ids_BL: Tensor
    position_ids_BL: Tensor  # those of every completion continue its prompt's
    real_BL: Tensor  # bool: False at padding
    where_CT: Tensor  # flat index of the position predicting token t (t = 0: the prompt's last); 0 if masked
    targets_CT: Tensor  # the tokens themselves; 0 if masked
    mask_CT: Tensor  # bool: True at real tokens
    last_C: Tensor  # flat index of each completion's last token
    group_C: Tensor  # index of each completion's group in the call of `collate`
    segments: tuple[Segment, ...] = ()  # of the only row, in order

    @property
    def stands_CT(self) -> Tensor:
        """Flat index of the position at which token t of completion c stands; 0 where masked."""
        end_C1 = self.mask_CT.sum(1, keepdim=True) - 1
        shifted_CT = self.where_CT.roll(-1, dims=1)  # token t stands where token t + 1 is predicted
        return shifted_CT.scatter(1, end_C1, self.last_C[:, None]) * self.mask_CT

    def to(self, device: torch.device | str) -> GroupBatch:
        moved: dict[str, Any] = {n: x.to(device) for n, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **moved)


def collate(groups: Sequence[Encoded], *, shared: bool = True) -> GroupBatch:
    """The groups as tensors, with completions in order.

    With `shared`, all of them lie in one row; without, each completion has its own row with its prompt, which
    any causal model can take.

    Raises DataError when there is no group, a group has no completion, or a prompt or completion no token.
    """
    _check(groups)
    rows = [list(enumerate(groups))]  # of groups and their numbers
    if not shared:
        rows = [
            [(g, Encoded(e.prompt_ids, (ids,)))] for g, e in enumerate(groups) for ids in e.completion_ids
        ]
    inputs: list[list[int]] = [[] for _ in rows]
    positions: list[list[int]] = [[] for _ in rows]
    segments: list[Segment] = []
    where, ends, owners = [], [], []  # where and ends are pairs of a row and places in it
    for b, row in enumerate(rows):
        for g, group in row:
            number, prompt = len(segments), len(group.prompt_ids)
            inputs[b] += group.prompt_ids
            positions[b] += range(prompt)
            segments.append(Segment(prompt))
            last_of_prompt = len(inputs[b]) - 1
            for ids in group.completion_ids:
                first, length = len(inputs[b]), len(ids)
                inputs[b] += ids
                positions[b] += range(prompt, prompt + length)
                segments.append(Segment(length, after=number))
                where.append((b, [last_of_prompt, *range(first, first + length - 1)]))
                ends.append((b, first + length - 1))
                owners.append(g)
    length = max(map(len, inputs))
    completions = [ids for group in groups for ids in group.completion_ids]
    longest = max(map(len, completions))
    return GroupBatch(
        input_ids_BL=_padded(inputs, length),
        position_ids_BL=_padded(positions, length),
        real_BL=_real(inputs, length),
        where_CT=_padded([[row * length + place for place in places] for row, places in where], longest),
        targets_CT=_padded(completions, longest),
        mask_CT=_real(completions, longest),
        last_C=torch.tensor([row * length + place for row, place in ends]),
        group_C=torch.tensor(owners),
        segments=tuple(segments) if shared else (),
    )


def plan(groups: Sequence[Encoded], tokens: int, *, shared: bool = True, lanes: int = 1) -> list[list[int]]:
    """Split the groups into even micro-batches of at most `tokens` tokens, the longest groups first.

    A group that exceeds the budget alone gets a batch of its own. Where `lanes` batches are computed at once
    they share the budget, and their number is a multiple of `lanes` unless there are fewer groups. Without
    `shared`, rows are padded, so groups of similar length go together. Deterministic.
    """
    _check(groups)
    budget = tokens // lanes
    if not shared:
        return _similar(groups, budget)
    sizes = [_tokens(group) for group in groups]
    order = sorted(range(len(groups)), key=lambda g: (-sizes[g], g))
    count = max(1, sum(sizes) // max(budget, 1))
    while True:
        count = min(-(-count // lanes) * lanes, len(groups))
        batches: list[list[int]] = [[] for _ in range(count)]
        loads = [0] * count
        for g in order:  # longest processing time first (Graham 1969)
            least = loads.index(min(loads))
            batches[least].append(g)
            loads[least] += sizes[g]
        fits = all(load <= budget or len(b) == 1 for load, b in zip(loads, batches, strict=True))
        if fits or count == len(groups):
            return batches
        count += 1


def in_batches(
    groups: Sequence[Encoded], tokens: int, *, shared: bool = True, lanes: int = 1
) -> Iterator[tuple[list[int], GroupBatch]]:
    """The parts of `plan`, each with its batch."""
    for part in plan(groups, tokens, shared=shared, lanes=lanes):
        yield part, collate([groups[g] for g in part], shared=shared)


def _similar(groups: Sequence[Encoded], tokens: int) -> list[list[int]]:
    """Micro-batches of rows of their own, which hold at most `tokens` tokens with padding."""
    longest = [len(g.prompt_ids) + max(map(len, g.completion_ids)) for g in groups]
    batches: list[list[int]] = []
    for g in sorted(range(len(groups)), key=lambda g: (-longest[g], g)):
        rows = sum(len(groups[i].completion_ids) for i in (*(batches[-1] if batches else ()), g))
        if batches and rows * longest[batches[-1][0]] <= tokens:
            batches[-1].append(g)
        else:
            batches.append([g])
    return batches


def _tokens(group: Encoded) -> int:
    return len(group.prompt_ids) + sum(map(len, group.completion_ids))


def _padded(rows: Sequence[Sequence[int]], width: int) -> Tensor:
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])


def _real(rows: Sequence[Sequence[int]], width: int) -> Tensor:
    return torch.tensor([len(row) for row in rows])[:, None] > torch.arange(width)


def _check(groups: Sequence[Encoded]) -> None:
    if not groups:
        raise DataError("there are no groups to put into a batch")
    for g, group in enumerate(groups):
        if not group.prompt_ids:
            raise DataError(
                f"group {g} of the batch has an empty prompt; nothing would predict its first token"
            )
        if not group.completion_ids:
            raise DataError(f"group {g} of the batch has no completions; drop it or sample some")
        for c, ids in enumerate(group.completion_ids):
            if not ids:
                raise DataError(
                    f"completion {c} of group {g} has no tokens, not even an end of turn; drop it first"
                )
