"""Two ways to run a causal language model one token at a time, both through its own forward.

`Slots` is the fast one: a table of preallocated keys and values in which every row has its own length, so
rows of different prompts decode together, leave when they end, and make room for others. It needs a model
that takes an explicit mask and positions, with full attention in every layer. `Waves` is for all others
(sliding windows, state spaces, ALiBi): rows of equally long prompts start together in the model's own
cache, and no mask is needed at all.

N rows being decoded, V vocabulary, W columns of the table in use, P prompt length, G prompts.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Protocol, cast

import torch
from torch import LongTensor, Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

from accord.errors import ModelError

GRAIN = 64  # columns are allocated in multiples of this
PREFILL_TOKENS = 4096  # padded prompt tokens per forward pass


class Sequenced(Protocol):
    """What a decoder must know of a row."""

    @property
    def prompt_ids(self) -> tuple[int, ...]: ...
    @property
    def last_of_prompt(self) -> bool: ...  # no later row has this prompt


class Decoder(Protocol):
    def admissible(self, waiting: deque[Any]) -> int:
        """How many of the waiting rows (sorted by prompt length) should enter now."""
        ...

    def admit(self, rows: Sequence[Sequenced]) -> Tensor:
        """Put rows behind those being decoded; logits (len(rows), V) of their first tokens."""
        ...

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to every row; logits (N, V) of the next ones."""
        ...

    def keep(self, order: Sequence[int]) -> None:
        """Row i is from now on the one that was at `order[i]`; rows not named are gone."""
        ...


def decoder_for(model: PreTrainedModel, rows: int) -> Decoder:
    """The fast decoder where the model allows it. Raises ModelError for a model without a cache."""
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise ModelError(
            f"{type(model).__name__} takes no past_key_values, so it cannot be sampled from token by "
            "token; use a decoder with a key-value cache"
        )
    return Slots(model, rows) if takes_slots(model) else Waves(model, rows)


def takes_slots(model: PreTrainedModel) -> bool:
    """Whether every layer has full attention and the forward takes a prepared mask and positions."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    if getattr(model.config, "alibi", False) or model.config._attn_implementation not in ("sdpa", "eager"):
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def free_rows(rows: int, used: int, waiting: int) -> int:
    """How many to let in: none until an eighth of the rows is free, since prompts are cheaper together."""
    free = min(rows - used, waiting)
    return free if free >= min(max(1, rows // 8), waiting) else 0


class _SlotLayer(CacheLayerMixin):
    """One layer's keys and values (rows, heads, columns, size); each row's new token has its own column."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, table: Slots, prefix: Any) -> None:
        super().__init__()
        self.table = table
        self.keys, self.values = (
            x.new_zeros(table.rows, x.shape[1], table.capacity, x.shape[3])
            for x in (prefix.keys, prefix.values)
        )
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        pass

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        count, width = len(key_states), self.table.width
        where = (self.table.numbers_N, slice(None), self.table.lengths_N)
        self.keys[where], self.values[where] = key_states[:, :, 0], value_states[:, :, 0]
        return self.keys[:count, :, :width], self.values[:count, :, :width]

    def fill(self, slots: slice, prefix: Any) -> None:
        length = prefix.keys.shape[2]
        self.keys[slots, :, :length], self.values[slots, :, :length] = prefix.keys, prefix.values

    def move(self, holes: Tensor, tails: Tensor, width: int) -> None:
        for x in (self.keys, self.values):
            x[holes, :, :width] = x[tails, :, :width]

    def widen(self, capacity: int, count: int) -> None:
        old = self.keys, self.values
        self.keys, self.values = (x.new_zeros(*x.shape[:2], capacity, x.shape[3]) for x in old)
        for x, y in zip((self.keys, self.values), old, strict=True):
            x[:count, :, : y.shape[2]] = y[:count]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.table.width, 0

    def get_seq_length(self) -> int:
        return self.table.width - 1

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # the same in earlier releases of transformers


class _Prefix:
    """The keys and values of one prompt in one layer (1, heads, P, size)."""

    def __init__(self, layer: Any, row: int, length: int) -> None:
        self.keys, self.values = (x[row : row + 1, :, :length].clone() for x in (layer.keys, layer.values))


class Slots:
    """Continuous batching over a preallocated table; each prompt is run once, whatever its number of rows."""

    def __init__(self, model: PreTrainedModel, rows: int) -> None:
        self.model, self.rows, self.capacity = model, rows, 0
        self.lengths_N = torch.zeros(0, dtype=torch.long, device=model.device)
        self.numbers_N = self.lengths_N
        self.width = 0  # columns in use, with the token being added
        self.layers: list[_SlotLayer] = []  # made when the first prompt shows their shapes
        self.cache: Cache | None = None
        self.prefixes: dict[tuple[int, ...], tuple[list[_Prefix], Tensor]] = {}

    def admissible(self, waiting: deque[Any]) -> int:
        return free_rows(self.rows, len(self.lengths_N), len(waiting))

    def admit(self, rows: Sequence[Sequenced]) -> Tensor:
        fresh = dict.fromkeys(row.prompt_ids for row in rows if row.prompt_ids not in self.prefixes)
        for batch in _batches(list(fresh)):
            self._prefill(batch)
        self._reserve(len(rows[-1].prompt_ids), self.prefixes[rows[-1].prompt_ids][0])
        logits, start = [], len(self.lengths_N)
        for prompt_ids, members in groupby(rows, key=lambda row: row.prompt_ids):
            siblings = list(members)
            prefixes, logits_V = self.prefixes[prompt_ids]
            for layer, prefix in zip(self.layers, prefixes, strict=True):
                layer.fill(slice(start, start + len(siblings)), prefix)
            logits.append(logits_V.expand(len(siblings), -1))
            start += len(siblings)
            if siblings[-1].last_of_prompt:
                del self.prefixes[prompt_ids]
        entered = [len(row.prompt_ids) for row in rows]
        self._set_lengths(torch.cat([self.lengths_N, self.lengths_N.new_tensor(entered)]))
        return torch.cat(logits)

    def step(self, tokens: Sequence[int]) -> Tensor:
        if self.width > self.capacity:
            self._widen(self.width)
        columns_W = torch.arange(self.width, device=self.lengths_N.device)
        hidden_NW = columns_W > self.lengths_N[:, None]
        dtype = self.model.dtype
        mask_N11W = torch.zeros(hidden_NW.shape, dtype=dtype, device=hidden_NW.device)
        mask_N11W = mask_N11W.masked_fill_(hidden_NW, torch.finfo(dtype).min)[:, None, None]
        output = self.model(
            input_ids=self.lengths_N.new_tensor(tokens)[:, None],
            position_ids=self.lengths_N[:, None],
            attention_mask=mask_N11W,
            past_key_values=self.cache,
            use_cache=True,
        )
        self._set_lengths(self.lengths_N + 1)
        return output.logits[:, -1]

    def keep(self, order: Sequence[int]) -> None:
        holes = [i for i, old in enumerate(order) if i != old]
        if holes:
            to, of = (self.lengths_N.new_tensor(x) for x in (holes, [order[i] for i in holes]))
            for layer in self.layers:
                layer.move(to, of, self.width - 1)
        self._set_lengths(self.lengths_N[self.lengths_N.new_tensor(order)])

    def _set_lengths(self, lengths_N: Tensor) -> None:
        self.lengths_N = lengths_N
        self.numbers_N = torch.arange(len(lengths_N), device=lengths_N.device)
        self.width = int(lengths_N.max()) + 1 if len(lengths_N) else 0

    def _prefill(self, batch: list[tuple[int, ...]]) -> None:
        """Run prompts side by side. Padding is on the right, where causal attention never sees it."""
        ends = [len(ids) - 1 for ids in batch]
        padded = [[*ids, *[0] * (max(ends) + 1 - len(ids))] for ids in batch]
        cache, kept = DynamicCache(config=self.model.config), sorted(set(ends))
        logits_GEV = _last_logits(self.model, padded, cache, kept)
        for g, ids in enumerate(batch):
            prefixes = [_Prefix(layer, g, len(ids)) for layer in cache.layers]
            self.prefixes[ids] = prefixes, logits_GEV[g, kept.index(ends[g])]

    def _reserve(self, length: int, prefixes: list[_Prefix]) -> None:
        if self.cache is None:
            self.capacity = rounded(length + 1)
            self.layers = [_SlotLayer(self, prefix) for prefix in prefixes]
            self.cache = Cache(layers=[*self.layers])
        elif length > self.capacity:
            self._widen(length)

    def _widen(self, width: int) -> None:
        self.capacity = rounded(width)
        for layer in self.layers:
            layer.widen(self.capacity, len(self.lengths_N))


class Waves:
    """Rows of equally long prompts, started together in the model's own cache."""

    def __init__(self, model: PreTrainedModel, rows: int) -> None:
        self.model, self.rows, self.count = model, rows, 0
        self.cache = DynamicCache(config=model.config)

    def admissible(self, waiting: deque[Any]) -> int:
        if self.count or not waiting:
            return 0
        length = len(waiting[0].prompt_ids)
        same = sum(len(row.prompt_ids) == length for row in waiting)
        return min(same, self.rows)

    def admit(self, rows: Sequence[Sequenced]) -> Tensor:
        prompts = list(dict.fromkeys(row.prompt_ids for row in rows))
        self.cache, self.count = DynamicCache(config=self.model.config), len(rows)
        logits_GEV = _last_logits(self.model, prompts, self.cache, [len(prompts[0]) - 1])
        which_N = torch.tensor([prompts.index(row.prompt_ids) for row in rows], device=self.model.device)
        self.cache.reorder_cache(cast(LongTensor, which_N))
        return logits_GEV[which_N, 0]

    def step(self, tokens: Sequence[int]) -> Tensor:
        ids_N1 = torch.tensor(tokens, device=self.model.device)[:, None]
        return self.model(input_ids=ids_N1, past_key_values=self.cache, use_cache=True).logits[:, -1]

    def keep(self, order: Sequence[int]) -> None:
        order_N = torch.tensor(order, dtype=torch.long, device=self.model.device)
        self.cache.reorder_cache(cast(LongTensor, order_N))
        self.count = len(order)


def _last_logits(
    model: PreTrainedModel, padded: Sequence[Sequence[int]], cache: Cache, kept: list[int]
) -> Tensor:
    """Logits (G, len(kept), V) at the kept positions of a prompt batch; fills the cache."""
    ids_GP = torch.tensor(padded, device=model.device)
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return model(input_ids=ids_GP, past_key_values=cache, use_cache=True).logits[:, kept]
    kept_E = torch.tensor(kept, device=model.device)
    return model(input_ids=ids_GP, past_key_values=cache, use_cache=True, logits_to_keep=kept_E).logits


def _batches(prompts: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Consecutive prompts (sorted by length) of at most PREFILL_TOKENS padded tokens together."""
    batch: list[tuple[int, ...]] = []
    for ids in prompts:
        if batch and (len(batch) + 1) * len(ids) > PREFILL_TOKENS:
            yield batch
            batch = []
        batch.append(ids)
    if batch:
        yield batch


def rounded(columns: int) -> int:
    return -(-columns // GRAIN) * GRAIN


def compact(alive: Sequence[bool]) -> list[int]:
    """Which old place each remaining row comes from: the last ones fill the holes, the others stay."""
    count = sum(alive)
    tail = (i for i in range(count, len(alive)) if alive[i])
    return [i if alive[i] else next(tail) for i in range(count)]
