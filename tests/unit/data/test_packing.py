"""Packed documents: every token learned once, and no document sees another."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.data.packing import collate_rows, microbatches, pack, pieces
from accord.models.forward import hidden_states, token_logps
from tiny import tiny_gpt2, tiny_llama

START, END = 257, 256
DOCUMENTS = st.lists(st.lists(st.integers(0, 255), max_size=40), min_size=1, max_size=12)


@settings(deadline=None)
@given(DOCUMENTS, st.integers(2, 16))
def test_every_token_and_every_end_is_a_target_exactly_once(documents: list[list[int]], length: int) -> None:
    rows = pack(pieces(documents, length, start=START, end=END), length)
    found = [(p.document, p.targets) for row in rows for p in row]
    expected = Counter((d, t) for d, ids in enumerate(documents) for t in (*ids, END))
    assert Counter((d, t) for d, targets in found for t in targets) == expected
    batch = collate_rows(rows)
    assert Counter(batch.targets_CT[batch.mask_CT].tolist()) == Counter(t for _, t in expected.elements())
    assert START not in batch.targets_CT[batch.mask_CT]


@settings(deadline=None)
@given(DOCUMENTS, st.integers(2, 16))
def test_rows_keep_to_their_length_and_cut_only_what_is_longer(
    documents: list[list[int]], length: int
) -> None:
    rows = pack(pieces(documents, length, start=START, end=END), length)
    assert all(sum(len(p.inputs) for p in row) <= length for row in rows)
    of = Counter(p.document for row in rows for p in row)
    for number, ids in enumerate(documents):
        assert of[number] == -(-(len(ids) + 1) // length)


def test_the_fullest_row_with_room_is_taken() -> None:
    # 9, 6, 4, 1 tokens in rows of 10: 9 + 1 and 6 + 4.
    rows = pack(pieces([[1] * n for n in (5, 0, 8, 3)], 10, start=START, end=END), 10)
    assert [[len(p.inputs) for p in row] for row in rows] == [[9, 1], [6, 4]]


@settings(max_examples=20, deadline=None)
@given(DOCUMENTS, st.integers(2, 24))
def test_packed_documents_have_the_logps_of_separate_ones(documents: list[list[int]], length: int) -> None:
    model = tiny_llama().double()
    parts = pieces(documents, length, start=START, end=END)
    alone = {p: logps(model, [(p,)])[0][: len(p.inputs)] for p in parts}
    rows = pack(parts, length)
    for row, logps_T in zip(rows, logps(model, rows), strict=True):
        at = 0
        for piece in row:
            own = logps_T[at : at + len(piece.inputs)]
            torch.testing.assert_close(own, alone[piece], rtol=1e-10, atol=1e-10)
            at += len(piece.inputs)


def test_a_piece_alone_is_an_ordinary_forward_pass() -> None:
    model = tiny_llama().double()
    ids = torch.tensor([START, 5, 6, 7, END])
    (piece,) = pieces([[5, 6, 7]], 8, start=START, end=END)
    expected = model(ids[None]).logits[0].log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0]
    torch.testing.assert_close(logps(model, [(piece,)])[0], expected, rtol=1e-10, atol=1e-10)


def test_models_that_cannot_keep_documents_apart_get_a_row_for_each() -> None:
    parts = pieces([[1, 2], [3], [4] * 20], 8, start=START, end=END)
    rows = pack(parts, 8, shared=False)
    assert [len(row) for row in rows] == [1] * len(parts)
    batch, model = collate_rows(rows, shared=False), tiny_gpt2().double()
    assert not batch.segments and batch.input_ids_BL.shape == (len(rows), 8)
    torch.testing.assert_close(logps(model, rows, shared=False), logps(model, rows), rtol=0, atol=1e-10)


@pytest.mark.parametrize("tokens", [1, 16, 40, 1000])
def test_microbatches_keep_to_their_budget(tokens: int) -> None:
    rows = pack(pieces([[1] * n for n in (3, 9, 12, 15, 7)], 16, start=START, end=END), 16)
    batches = microbatches(rows, tokens)
    assert sorted(map(id, rows)) == sorted(id(row) for some in batches for row in some)
    for some in batches:
        assert len(some) == 1 or collate_rows(some).input_ids_BL.numel() <= tokens


def logps(model: torch.nn.Module, rows: list, shared: bool = True) -> torch.Tensor:  # type: ignore[type-arg]
    batch = collate_rows(rows, shared=shared)
    with torch.no_grad():
        hidden_FD = hidden_states(model, batch)  # type: ignore[arg-type]
        found, _ = token_logps(model, hidden_FD, batch.where_CT, batch.targets_CT, batch.mask_CT)  # type: ignore[arg-type]
    return found
