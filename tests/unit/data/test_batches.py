"""Groups to tensors: the layout by hand, its cost model, and the plan of micro-batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.data import batches
from accord.data.batches import collate, plan
from accord.data.render import Encoded
from accord.errors import DataError

PAIR = Encoded((10, 11, 12), ((20, 21), (30,)))


def sized(prompt: int, *lengths: int) -> Encoded:
    """A group of the given lengths in which every token is different."""
    ids = iter(range(1, 10_000))
    take = lambda n: tuple(next(ids) for _ in range(n))  # noqa: E731
    return Encoded(take(prompt), tuple(take(n) for n in lengths))


groups_strategy = st.lists(
    st.builds(
        lambda prompt, lengths: sized(prompt, *lengths),
        st.integers(1, 30),
        st.lists(st.integers(1, 30), min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=12,
)


def test_one_row_by_hand() -> None:
    batch = collate([PAIR])
    assert batch.input_ids_BL.tolist() == [[10, 11, 12, 20, 21, 30]]
    assert batch.position_ids_BL.tolist() == [[0, 1, 2, 3, 4, 3]]
    assert batch.segments_BL.tolist() == [[0, 0, 0, 1, 1, 2]]
    assert batch.mask_B1LL.int().tolist() == [
        [
            [
                [1, 0, 0, 0, 0, 0],
                [1, 1, 0, 0, 0, 0],
                [1, 1, 1, 0, 0, 0],
                [1, 1, 1, 1, 0, 0],
                [1, 1, 1, 1, 1, 0],
                [1, 1, 1, 0, 0, 1],
            ]
        ]
    ]
    assert batch.where_CT.tolist() == [[2, 3], [2, 0]]
    assert batch.targets_CT.tolist() == [[20, 21], [30, 0]]
    assert batch.mask_CT.tolist() == [[True, True], [True, False]]
    assert batch.last_C.tolist() == [4, 5]
    assert batch.group_C.tolist() == [0, 0]


def test_separate_rows_by_hand() -> None:
    batch = collate([PAIR], shared=False)
    assert batch.input_ids_BL.tolist() == [[10, 11, 12, 20, 21], [10, 11, 12, 30, 0]]
    assert batch.position_ids_BL.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 0]]
    assert batch.segments_BL.tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 1, -1]]
    assert batch.where_CT.tolist() == [[2, 3], [7, 0]]
    assert batch.last_C.tolist() == [4, 8]


@settings(max_examples=60, deadline=None)
@given(groups=groups_strategy, shared=st.booleans())
def test_every_token_is_found_where_the_batch_says(groups: list[Encoded], shared: bool) -> None:
    batch = collate(groups, shared=shared)
    length = batch.input_ids_BL.shape[1]
    flat_ids, flat_positions = batch.input_ids_BL.flatten(), batch.position_ids_BL.flatten()
    visible_FL = batch.mask_B1LL[:, 0].flatten(0, 1)
    wanted = [(g, ids) for g, group in enumerate(groups) for ids in group.completion_ids]
    assert batch.group_C.tolist() == [g for g, _ in wanted]
    for c, (g, ids) in enumerate(wanted):
        assert batch.targets_CT[c][batch.mask_CT[c]].tolist() == list(ids)
        last = int(batch.last_C[c])
        row, column = divmod(last, length)
        # What the completion's last token attends to, in order, is exactly prompt and completion.
        seen = batch.input_ids_BL[row][visible_FL[last]]
        assert seen.tolist() == [*groups[g].prompt_ids, *ids]
        assert batch.position_ids_BL[row][visible_FL[last]].tolist() == list(range(len(seen)))
        where = batch.where_CT[c][batch.mask_CT[c]]
        assert flat_positions[where].tolist() == list(range(len(seen) - len(ids) - 1, len(seen) - 1))
        assert flat_ids[where].tolist() == seen.tolist()[-len(ids) - 1 : -1]
        assert column < length and batch.segments_BL[row, column] >= 1
    assert visible_FL.any(dim=1).all()  # padding too: an empty row of attention would be NaN
    assert not (batch.mask_B1LL[:, 0] & (batch.segments_BL == -1)[:, None, :])[batch.segments_BL >= 0].any()
    assert torch.all(batch.where_CT[~batch.mask_CT] == 0) and torch.all(batch.targets_CT[~batch.mask_CT] == 0)


def rows_of(groups: list[Encoded]) -> list[int]:
    """How many completions each row of the batch holds."""
    return collate(groups).segments_BL.amax(1).tolist()


def test_siblings_share_a_row_while_the_prompt_is_worth_it() -> None:
    assert rows_of([sized(90, 50, 50, 50, 50)]) == [4]
    assert rows_of([sized(400, 100, 100)]) == [2]


def test_long_answers_to_a_short_prompt_do_not_share() -> None:
    assert rows_of([sized(5, 900, 900, 900, 900)]) == [1, 1, 1, 1]


def test_a_large_group_is_cut_rather_than_pad_the_small_ones() -> None:
    """Seven pairs of 120 tokens beside a group of 920: one row for it would pad every pair eightfold."""
    rows = rows_of([sized(20, *[50] * 18), *[sized(20, 50, 50)] * 7])
    assert rows[-7:] == [2] * 7
    assert sum(rows[:-7]) == 18 and max(rows[:-7]) <= 4


@settings(max_examples=60, deadline=None)
@given(groups=groups_strategy)
def test_the_chosen_layout_costs_no_more_than_either_extreme(groups: list[Encoded]) -> None:
    def cost(lengths: list[int]) -> float:
        longest = max(lengths)
        return len(lengths) * longest * (1 + longest / batches.ATTENTION_LENGTH)

    together = cost([len(g.prompt_ids) + sum(map(len, g.completion_ids)) for g in groups])
    apart = cost([len(g.prompt_ids) + len(ids) for g in groups for ids in g.completion_ids])
    rows, length = collate(groups).input_ids_BL.shape
    assert cost([length] * rows) <= min(together, apart) + 1e-6


@settings(max_examples=60, deadline=None)
@given(groups=groups_strategy, tokens=st.integers(1, 600), shared=st.booleans())
def test_the_plan_covers_every_group_once_within_the_budget(
    groups: list[Encoded], tokens: int, shared: bool
) -> None:
    planned = plan(groups, tokens, shared=shared)
    assert sorted(g for batch in planned for g in batch) == list(range(len(groups)))
    assert planned == plan(groups, tokens, shared=shared)
    for batch in planned:
        padded = collate([groups[g] for g in batch], shared=shared).input_ids_BL.numel()
        assert padded <= tokens or len(batch) == 1


@given(
    st.lists(st.tuples(st.integers(1, 30), st.lists(st.integers(1, 20), min_size=1, max_size=4)), min_size=1),
    st.integers(2, 200),
)
@settings(max_examples=60, deadline=None)
def test_lanes_share_the_budget_and_the_work(shapes: list[tuple[int, list[int]]], tokens: int) -> None:
    groups = [Encoded((1,) * p, tuple((2,) * c for c in sizes)) for p, sizes in shapes]
    planned = plan(groups, tokens, lanes=2)
    assert sorted(g for part in planned for g in part) == list(range(len(groups)))
    for part in planned:
        assert len(part) == 1 or collate([groups[g] for g in part]).input_ids_BL.numel() <= tokens // 2


def test_lanes_get_even_parts() -> None:
    equal = [Encoded((1,) * 10, ((2,) * 10,))] * 8
    assert [len(part) for part in plan(equal, 140)] == [7, 1]
    assert [len(part) for part in plan(equal, 139)] == [6, 2]
    assert [len(part) for part in plan(equal, 280, lanes=2)] == [4, 4]
    assert [len(part) for part in plan(equal, 140, lanes=2)] == [2, 2, 2, 2]
    assert plan(equal[:1], 140, lanes=2) == [[0]]


def test_the_plan_puts_similar_lengths_together() -> None:
    groups = [sized(10, n, n) for n in (5, 45, 5, 45)]
    assert plan(groups, 200) == [[1, 3], [0, 2]]
    assert plan(groups, 100) == [[1], [3], [0, 2]]
    assert plan(groups, 1) == [[1], [3], [0], [2]]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], "no groups"),
        ([PAIR, Encoded((1,), ())], "group 1 .* no completions"),
        ([PAIR, Encoded((1,), ((2,), ()))], "completion 1 of group 1 has no tokens"),
        ([Encoded((), ((2,),))], "group 0 .* empty prompt"),
    ],
)
def test_unusable_groups_are_named(groups: list[Encoded], message: str) -> None:
    with pytest.raises(DataError, match=message):
        collate(groups)
    with pytest.raises(DataError, match=message):
        plan(groups, 100)


def test_moving_a_batch_moves_every_tensor() -> None:
    moved = collate([PAIR]).to("meta")
    assert {t.device.type for t in (*vars(moved).values(), moved.mask_B1LL)} == {"meta"}
