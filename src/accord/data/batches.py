"""Groups to tensors: one row per group, the prompt's tokens once.

A row is a prompt followed by completions that cannot see one another: each attends to the prompt and to
itself, and its positions restart where the prompt ends. That gives exactly the numbers of separate rows (see
tests/invariance/test_groups.py) without computing the prompt k times.

Shape letters: B rows, L row length, C completions (groups in order, completions in order), T longest
completion in tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from accord.data.render import Encoded
from accord.errors import DataError

# In a row of this length, masked attention costs as much as all the rest: see `_cost`.
ATTENTION_LENGTH = 3300
# How many row lengths `_layout` weighs against one another at most.
_TRIALS = 32

Row = tuple[int, range]  # the group's index, and which of its completions lie in this row


@dataclass(frozen=True)
class GroupBatch:
    """Rows of prompts and completions, padded on the right.

    Positions in the rows are named by flat indices `b * L + l`, which fit hidden states of shape (B*L, D).
    """

    input_ids_BL: Tensor
    position_ids_BL: Tensor  # those of every completion continue its prompt's
    segments_BL: Tensor  # -1 padding, 0 prompt, j >= 1 the j-th completion in this row
    where_CT: Tensor  # flat index of the position predicting token t (t = 0: the prompt's last); 0 if masked
    targets_CT: Tensor  # the tokens themselves; 0 if masked
    mask_CT: Tensor  # bool: True at real tokens
    last_C: Tensor  # flat index of each completion's last token
    group_C: Tensor  # index of each completion's group in the call of `collate`

    @cached_property
    def mask_B1LL(self) -> Tensor:
        """Bool, True where a query (third axis) may attend to a key (fourth).

        Padding comes last in its row, so nothing else sees it; it sees at least itself, so no row of
        attention weights is empty (NaN).
        """
        segments, length = self.segments_BL, self.segments_BL.shape[1]
        key, query = segments[:, None, None, :], segments[:, None, :, None]
        causal_LL = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
        return causal_LL & ((key == 0) | (key == query))

    @property
    def stands_CT(self) -> Tensor:
        """Flat index of the position at which token t of completion c stands; 0 where masked."""
        end_C1 = self.mask_CT.sum(1, keepdim=True) - 1
        shifted_CT = self.where_CT.roll(-1, dims=1)  # token t stands where token t + 1 is predicted
        return shifted_CT.scatter(1, end_C1, self.last_C[:, None]) * self.mask_CT

    def to(self, device: torch.device | str) -> GroupBatch:
        return GroupBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def collate(groups: Sequence[Encoded], *, shared: bool = True) -> GroupBatch:
    """The groups as tensors, with completions in order.

    With `shared`, siblings lie in one row as long as that is cheaper than repeating the prompt (see
    `_layout`); without, each completion has its own row, which any causal model can take.

    Raises DataError when there is no group, a group has no completion, or a prompt or completion no token.
    """
    _check(groups)
    rows = _layout(groups, shared)
    length = max(_length(groups, row) for row in rows)
    completions = [ids for group in groups for ids in group.completion_ids]
    longest = max(map(len, completions))

    inputs, positions, segments, where, last, owners = [], [], [], [], [], []
    for b, (g, members) in enumerate(rows):
        prompt = len(groups[g].prompt_ids)
        ids, places, parts = list(groups[g].prompt_ids), list(range(prompt)), [0] * prompt
        for j, c in enumerate(members, start=1):
            completion = groups[g].completion_ids[c]
            start = b * length + len(ids)
            where.append([b * length + prompt - 1, *range(start, start + len(completion) - 1)])
            last.append(start + len(completion) - 1)
            owners.append(g)
            ids += completion
            places += range(prompt, prompt + len(completion))
            parts += [j] * len(completion)
        inputs.append(ids)
        positions.append(places)
        segments.append(parts)
    return GroupBatch(
        input_ids_BL=_padded(inputs, length),
        position_ids_BL=_padded(positions, length),
        segments_BL=_padded(segments, length, fill=-1),
        where_CT=_padded(where, longest),
        targets_CT=_padded(completions, longest),
        mask_CT=torch.tensor([len(ids) for ids in completions])[:, None] > torch.arange(longest),
        last_C=torch.tensor(last),
        group_C=torch.tensor(owners),
    )


def plan(groups: Sequence[Encoded], tokens: int, *, shared: bool = True, lanes: int = 1) -> list[list[int]]:
    """Split the groups into micro-batches whose rows, padded, hold at most `tokens` tokens (B times L).

    Groups of similar length go together, the longest first (so that memory runs out at once or never). A
    group that exceeds the budget alone gets a batch of its own. Where `lanes` batches are computed at once
    they share the budget, and are as even, and as nearly a multiple of `lanes`, as the groups allow.
    Deterministic.
    """
    _check(groups)
    batches = _greedy(groups, tokens // lanes, shared)
    if lanes == 1:
        return batches
    wanted = min(len(groups), -(-len(batches) // lanes) * lanes)
    budget = sum(_size([group], shared) for group in groups) / wanted
    while len(even := _greedy(groups, min(budget, tokens // lanes), shared)) > wanted:
        budget *= 1.1  # ends: under the whole budget there are no more than wanted
    return even


def _greedy(groups: Sequence[Encoded], tokens: float, shared: bool) -> list[list[int]]:
    whole = [_length(groups, (g, range(len(group.completion_ids)))) for g, group in enumerate(groups)]
    batches: list[list[int]] = []
    for g in sorted(range(len(groups)), key=lambda g: (-whole[g], g)):
        if batches and _size([groups[i] for i in (*batches[-1], g)], shared) <= tokens:
            batches[-1].append(g)
        else:
            batches.append([g])
    return batches


def _layout(groups: Sequence[Encoded], shared: bool) -> list[Row]:
    """Which completions share a row, in order.

    Sharing saves repeated prompts; against it stand attention, quadratic in the row's length, and padding up
    to the longest row. The row lengths that occur are tried as limits (at most `_TRIALS` of them), each
    filled greedily, which needs the fewest rows that keep the order, and the cheapest layout wins.
    """
    if not shared:
        return [
            (g, range(c, c + 1)) for g, group in enumerate(groups) for c in range(len(group.completion_ids))
        ]
    sizes = [[len(ids) for ids in group.completion_ids] for group in groups]
    needed = max(len(group.prompt_ids) + max(own) for group, own in zip(groups, sizes, strict=True))
    occurring = {
        len(group.prompt_ids) + run
        for group, own in zip(groups, sizes, strict=True)
        for first in range(len(own))
        for run in accumulate(own[first:])
    }
    limits = sorted(limit for limit in occurring if limit >= needed)
    step = max(1, (len(limits) - 1) / (_TRIALS - 1))
    tried = [limits[round(i * step)] for i in range(min(len(limits), _TRIALS))]
    return min((_fill(groups, limit) for limit in tried), key=lambda rows: _cost(groups, rows))


def _fill(groups: Sequence[Encoded], limit: int) -> list[Row]:
    """Rows of at most `limit` tokens, each taking the next completions of its group while they fit."""
    rows: list[Row] = []
    for g, group in enumerate(groups):
        first, length = 0, len(group.prompt_ids)
        for c, ids in enumerate(group.completion_ids):
            if c > first and length + len(ids) > limit:
                rows.append((g, range(first, c)))
                first, length = c, len(group.prompt_ids)
            length += len(ids)
        rows.append((g, range(first, len(group.completion_ids))))
    return rows


def _cost(groups: Sequence[Encoded], rows: list[Row]) -> float:
    """Relative time of a forward pass: per padded token, a constant plus attention over its row's length.

    The linear layers cost about 24 D^2 operations a token, dense masked attention 4 D L, so they are level
    near L = 6 D in theory and at about 3300 measured on a CPU with D = 576. Wider models are shared more
    reluctantly than they could be, never wrongly.
    """
    length = max(_length(groups, row) for row in rows)
    return len(rows) * length * (1 + length / ATTENTION_LENGTH)


def _length(groups: Sequence[Encoded], row: Row) -> int:
    g, members = row
    return len(groups[g].prompt_ids) + sum(len(groups[g].completion_ids[c]) for c in members)


def _size(groups: Sequence[Encoded], shared: bool) -> int:
    """Padded tokens of the collated groups."""
    rows = _layout(groups, shared)
    return len(rows) * max(_length(groups, row) for row in rows)


def _padded(rows: Sequence[Sequence[int]], width: int, fill: int = 0) -> Tensor:
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


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
