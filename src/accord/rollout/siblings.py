"""Decoding in which the answers to a prompt read its keys and values once for all of them.

A step of decoding reads every key and value it attends to from memory, and answers to one prompt have most of
them in common. So prompts have a table of their own, and an answer keeps only what it has added. Columns of
the answers' table are steps: all rows write to the same one, and a row that entered later does not see those
before.

N rows being decoded, P prompts in the table, M most rows of one prompt, W columns, V vocabulary; H query
heads, K key-value heads, G = H / K, S their size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from accord.rollout.decoders import GRAIN, PREFILL_TOKENS, Sequenced, compact, free_rows, rounded
from accord.rollout.llama import Llama


@dataclass(eq=False)
class _Prompt:
    """A prompt; its place in the table is that in the list of prompts."""

    ids: tuple[int, ...]
    logits_V: Tensor
    awaited: bool = True  # rows of it may still enter


@dataclass
class _Row:
    prompt: _Prompt
    start: int  # its first column


class _Table:
    """Keys or values of all layers (layers, places, K, W, S), or (..., S, W) when turned."""

    def __init__(self, like: Tensor, layers: int, heads: int, size: int, *, turned: bool = False) -> None:
        self.columns = 4 if turned else 3
        shape = (layers, 0, heads, size, 0) if turned else (layers, 0, heads, 0, size)
        self.x = like.new_zeros(shape)

    def reserve(self, places: int, width: int) -> None:
        old, shape = self.x, list(self.x.shape)
        shape[1] = max(places, shape[1])
        shape[self.columns] = max(rounded(width), shape[self.columns])
        if shape != list(old.shape):
            self.x = old.new_zeros(shape)
            self.x[:, : old.shape[1], :, : old.shape[3], : old.shape[4]] = old

    def move(self, order: Sequence[int]) -> None:
        """Place i holds from now on what was at `order[i]`."""
        holes = [i for i, old in enumerate(order) if i != old]
        if holes:
            self.x[:, holes] = self.x[:, [order[i] for i in holes]]

    def shift(self, low: int, end: int) -> None:
        """Columns low to end become the first ones."""
        self.x.narrow(self.columns, 0, end - low).copy_(self.x.narrow(self.columns, low, end - low).clone())


class _Seen(NamedTuple):
    """One layer's views of the tables in one step, places and heads in one dimension."""

    keys: Tensor  # (P * K, S, W)
    values: Tensor  # (P * K, W, S)
    own_keys: Tensor  # (N * K, S, W)
    own_values: Tensor  # (N * K, W, S)
    new_key: Tensor  # (N, K, S)
    new_value: Tensor


@dataclass(frozen=True)
class _Grouping:
    """Rows by prompt: row n is the `sibling_N[n]`-th of the prompt at `prompt_N[n]`."""

    prompts: int
    most: int
    prompt_N: Tensor
    sibling_N: Tensor
    full: bool  # every prompt has as many rows as any other, and they stand in order

    @classmethod
    def of(cls, places: Sequence[int], prompts: int) -> _Grouping:
        seen, siblings = [0] * prompts, []
        for place in places:
            siblings.append(seen[place])
            seen[place] += 1
        most = max(seen, default=0)
        full = [p * most + s for p, s in zip(places, siblings, strict=True)] == list(range(prompts * most))
        return cls(prompts, most, torch.tensor(places), torch.tensor(siblings), full)

    def by_prompt(self, x_NKGX: Tensor) -> Tensor:
        """(P * K, M * G, X), with zeros where a prompt has fewer than M rows."""
        _, k, g, x = x_NKGX.shape
        if self.full:
            x_PMKGX = x_NKGX.view(self.prompts, self.most, k, g, x)
            return x_PMKGX.transpose(1, 2).reshape(self.prompts * k, self.most * g, x)
        x_PKMGX = x_NKGX.new_zeros(self.prompts, k, self.most, g, x)
        x_PKMGX[self.prompt_N, :, self.sibling_N] = x_NKGX
        return x_PKMGX.view(self.prompts * k, self.most * g, x)

    def by_row(self, x: Tensor, heads: int) -> Tensor:
        """Back to (N, K, G, X)."""
        x_PKMGX = x.view(self.prompts, heads, self.most, -1, x.shape[2])
        if self.full:
            return x_PKMGX.transpose(1, 2).flatten(0, 1)
        return x_PKMGX[self.prompt_N, :, self.sibling_N]


class Siblings:
    """Continuous batching for a `Llama`; each prompt is run once, and its keys are read once in a step."""

    def __init__(self, llama: Llama, rows: int) -> None:
        self.llama, self.rows = llama, rows
        self.prompts: list[_Prompt] = []
        self.live: list[_Row] = []
        self.column = 0  # where the next step's keys go
        self.heads, size = llama.layers[0].counts[1], llama.layers[0].size
        table = partial(_Table, llama.embed.weight, len(llama.layers), self.heads, size)
        self.keys, self.values = table(turned=True), table()
        self.own_keys, self.own_values = table(), table()
        for own in (self.own_keys, self.own_values):
            own.reserve(rows, GRAIN)
        self._arrange()

    def admissible(self, waiting: deque[Any]) -> int:
        return free_rows(self.rows, len(self.live), len(waiting))

    def admit(self, rows: Sequence[Sequenced]) -> Tensor:
        known = {prompt.ids: prompt for prompt in self.prompts}
        fresh = [ids for ids in dict.fromkeys(row.prompt_ids for row in rows) if ids not in known]
        for batch in _batches(fresh):
            known |= {prompt.ids: prompt for prompt in self._prefill(batch)}
        logits = []
        for ids, members in groupby(rows, key=lambda row: row.prompt_ids):
            siblings, prompt = list(members), known[ids]
            self.live += [_Row(prompt, self.column) for _ in siblings]
            prompt.awaited = not siblings[-1].last_of_prompt
            logits.append(prompt.logits_V.expand(len(siblings), -1))
        self._arrange()
        return torch.cat(logits)

    def step(self, tokens: Sequence[int]) -> Tensor:
        self._reserve_column()
        low = min(row.start for row in self.live)
        positions = [len(row.prompt.ids) + self.column - row.start for row in self.live]
        bias_NW = torch.cat([self.prompt_bias_NW, self.own_bias_NW[:, low : self.column + 1]], 1)
        attend = partial(self._attend, self._seen(low), bias_NW[:, None, None])
        hidden_ND = self.llama.hidden(torch.tensor(tokens), torch.tensor(positions), attend)
        self.column += 1
        return self.llama.head(hidden_ND)

    def keep(self, order: Sequence[int]) -> None:
        for table in (self.own_keys, self.own_values):
            table.move(order)
        self.live = [self.live[i] for i in order]
        used = {id(row.prompt) for row in self.live}
        places = compact([prompt.awaited or id(prompt) in used for prompt in self.prompts])
        for table in (self.keys, self.values):
            table.move(places)
        self.prompts = [self.prompts[i] for i in places]
        if not self.live:
            self.column = 0
        self._arrange()

    def _seen(self, low: int) -> list[_Seen]:
        """What this step's rows see of the tables, by layer."""
        count, prompts, width = len(self.live), len(self.prompts), self.prompt_bias_NW.shape[1]
        own_keys, own_values = (t.x[:, :count] for t in (self.own_keys, self.own_values))
        window = slice(low, self.column + 1)
        views = (
            self.keys.x[:, :prompts, :, :, :width].flatten(1, 2),
            self.values.x[:, :prompts, :, :width].flatten(1, 2),
            own_keys[:, :, :, window].flatten(1, 2).transpose(2, 3),
            own_values[:, :, :, window].flatten(1, 2),
            own_keys[:, :, :, self.column],
            own_values[:, :, :, self.column],
        )
        return [_Seen(*found) for found in zip(*views, strict=True)]

    def _attend(
        self, seen: list[_Seen], bias: Tensor, layer: int, q_NHS: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        """One token of every row is added, and attends to its prompt and to what the row has added."""
        x, rows, width = seen[layer], self.grouping, self.prompt_bias_NW.shape[1]
        x.new_key.copy_(k)
        x.new_value.copy_(v)
        count = len(q_NHS)
        q_NKGS = q_NHS.view(count, self.heads, -1, q_NHS.shape[2])
        to_prompt_NKGW = rows.by_row(torch.bmm(rows.by_prompt(q_NKGS), x.keys), self.heads)
        to_own = torch.bmm(q_NKGS.flatten(0, 1), x.own_keys)
        to_own_NKGW = to_own.view(count, self.heads, *to_own.shape[1:])
        weights_NKGW = torch.cat([to_prompt_NKGW, to_own_NKGW], -1).add_(bias).softmax(-1)
        own = torch.bmm(weights_NKGW[..., width:].flatten(0, 1), x.own_values).view_as(q_NKGS)
        of_prompt = torch.bmm(rows.by_prompt(weights_NKGW[..., :width]), x.values)
        return own.add_(rows.by_row(of_prompt, self.heads)).view_as(q_NHS)

    def _prefill(self, batch: list[tuple[int, ...]]) -> list[_Prompt]:
        """Run prompts one behind the other, without padding; each attends to itself."""
        lengths = [len(ids) for ids in batch]
        first = len(self.prompts)
        for table in (self.keys, self.values):
            table.reserve(first + len(batch), max(lengths))

        def attend(layer: int, q_FHS: Tensor, k_FKS: Tensor, v_FKS: Tensor) -> Tensor:
            parts = zip(*(x.split(lengths) for x in (q_FHS, k_FKS, v_FKS)), strict=True)
            found = []
            for place, (q, k, v) in enumerate(parts, first):
                self.keys.x[layer, place, :, :, : len(k)] = k.permute(1, 2, 0)
                self.values.x[layer, place, :, : len(v)] = v.transpose(0, 1)
                q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
                mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=True)
                found.append(mixed[0].transpose(0, 1))
            return torch.cat(found)

        ids_F = torch.tensor([token for ids in batch for token in ids])
        positions_F = torch.cat([torch.arange(length) for length in lengths])
        hidden_FD = self.llama.hidden(ids_F, positions_F, attend)
        logits_PV = self.llama.head(hidden_FD[torch.tensor(lengths).cumsum(0) - 1])
        prompts = [_Prompt(ids, logits_V) for ids, logits_V in zip(batch, logits_PV, strict=True)]
        self.prompts += prompts
        return prompts

    def _reserve_column(self) -> None:
        """Room for one more column; where the oldest ones are no row's any longer, theirs."""
        low = min(row.start for row in self.live)
        if self.column == self.own_keys.x.shape[3] and low >= GRAIN:
            for table in (self.own_keys, self.own_values):
                table.shift(low, self.column)
            self.column -= low
            for row in self.live:
                row.start -= low
            self._arrange()
        for table in (self.own_keys, self.own_values):
            table.reserve(self.rows, self.column + 1)
        if self.own_bias_NW.shape[1] < self.own_keys.x.shape[3]:
            self._arrange()

    def _arrange(self) -> None:
        """What follows from which rows there are: who sees which columns, and whose prompt is whose."""
        place = {id(prompt): i for i, prompt in enumerate(self.prompts)}
        self.grouping = _Grouping.of([place[id(row.prompt)] for row in self.live], len(self.prompts))
        like, ends = self.keys.x, [len(row.prompt.ids) for row in self.live]
        width = max((len(prompt.ids) for prompt in self.prompts), default=0)
        starts_N = torch.tensor([row.start for row in self.live], dtype=torch.long)
        hidden_NW = torch.arange(width) >= torch.tensor(ends, dtype=torch.long)[:, None]
        own_NW = torch.arange(self.own_keys.x.shape[3]) < starts_N[:, None]
        self.prompt_bias_NW, self.own_bias_NW = (
            like.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf) for hidden in (hidden_NW, own_NW)
        )


def _batches(prompts: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Consecutive prompts of at most PREFILL_TOKENS together."""
    batch: list[tuple[int, ...]] = []
    for ids in prompts:
        if batch and sum(map(len, batch)) + len(ids) > PREFILL_TOKENS:
            yield batch
            batch = []
        batch.append(ids)
    if batch:
        yield batch
