"""Groups to tensors: the layout by hand, and the plan of micro-batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.data.batches import Segment, collate, plan
from accord.data.render import Encoded
from accord.errors import DataError
from visible import seen_by_flat, visible

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
    assert batch.segments == (Segment(3), Segment(2, after=0), Segment(1, after=0))
    assert visible(batch.segments).int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 1],
    ]
    assert batch.real_BL.all()
    assert batch.where_CT.tolist() == [[2, 3], [2, 0]]
    assert batch.targets_CT.tolist() == [[20, 21], [30, 0]]
    assert batch.mask_CT.tolist() == [[True, True], [True, False]]
    assert batch.last_C.tolist() == [4, 5]
    assert batch.group_C.tolist() == [0, 0]


def test_separate_rows_by_hand() -> None:
    batch = collate([PAIR], shared=False)
    assert batch.input_ids_BL.tolist() == [[10, 11, 12, 20, 21], [10, 11, 12, 30, 0]]
    assert batch.position_ids_BL.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 0]]
    assert batch.real_BL.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch.segments == ()
    assert batch.where_CT.tolist() == [[2, 3], [7, 0]]
    assert batch.last_C.tolist() == [4, 8]


def test_several_groups_lie_in_one_row() -> None:
    batch = collate([PAIR, Encoded((40, 41), ((50,),))])
    assert batch.input_ids_BL.tolist() == [[10, 11, 12, 20, 21, 30, 40, 41, 50]]
    assert batch.position_ids_BL.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 2]]
    assert batch.segments[3:] == (Segment(2), Segment(1, after=3))
    assert batch.where_CT.tolist() == [[2, 3], [2, 0], [7, 0]]
    assert batch.last_C.tolist() == [4, 5, 8]
    assert batch.group_C.tolist() == [0, 0, 1]


@settings(max_examples=60, deadline=None)
@given(groups=groups_strategy, shared=st.booleans())
def test_every_token_is_found_where_the_batch_says(groups: list[Encoded], shared: bool) -> None:
    batch = collate(groups, shared=shared)
    flat_ids, flat_positions = batch.input_ids_BL.flatten(), batch.position_ids_BL.flatten()
    seen_FF = seen_by_flat(batch)
    wanted = [(g, ids) for g, group in enumerate(groups) for ids in group.completion_ids]
    assert batch.group_C.tolist() == [g for g, _ in wanted]
    for c, (g, ids) in enumerate(wanted):
        assert batch.targets_CT[c][batch.mask_CT[c]].tolist() == list(ids)
        last = int(batch.last_C[c])
        # What the completion's last token attends to, in order, is exactly prompt and completion.
        seen = flat_ids[seen_FF[last]]
        assert seen.tolist() == [*groups[g].prompt_ids, *ids]
        assert flat_positions[seen_FF[last]].tolist() == list(range(len(seen)))
        where = batch.where_CT[c][batch.mask_CT[c]]
        assert flat_positions[where].tolist() == list(range(len(seen) - len(ids) - 1, len(seen) - 1))
        assert flat_ids[where].tolist() == seen.tolist()[-len(ids) - 1 : -1]
        assert batch.real_BL.flatten()[last]
    assert not shared or batch.real_BL.all()  # nothing is padded
    assert sum(segment.length for segment in batch.segments) == shared * flat_ids.numel()
    assert torch.all(batch.where_CT[~batch.mask_CT] == 0) and torch.all(batch.targets_CT[~batch.mask_CT] == 0)


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
    assert [len(part) for part in plan(equal, 160)] == [8]
    assert [len(part) for part in plan(equal, 159)] == [4, 4]
    assert [len(part) for part in plan(equal, 320, lanes=2)] == [4, 4]
    assert [len(part) for part in plan(equal, 80, lanes=2)] == [2, 2, 2, 2]
    assert plan(equal[:1], 140, lanes=2) == [[0]]


def test_parts_are_even_in_tokens_and_begin_with_the_longest() -> None:
    groups = [sized(10, n, n) for n in (5, 45, 10, 45, 20)]  # 20, 100, 30, 100, 50 tokens
    assert plan(groups, 300) == [[1, 3, 4, 2, 0]]
    assert plan(groups, 160) == [[1, 4], [3, 2, 0]]
    assert plan(groups, 100) == [[1], [3], [4, 2, 0]]
    assert plan(groups, 1) == [[1], [3], [4], [2], [0]]


@given(groups=groups_strategy, tokens=st.integers(60, 600))
@settings(max_examples=60, deadline=None)
def test_lanes_wait_for_one_another_no_longer_than_a_group(groups: list[Encoded], tokens: int) -> None:
    loads = [sum(sized_tokens(groups[g]) for g in part) for part in plan(groups, tokens, lanes=2)]
    assert max(loads) - min(loads) <= max(map(sized_tokens, groups))
    assert len(loads) % 2 == 0 or len(loads) == len(groups)


def sized_tokens(group: Encoded) -> int:
    return len(group.prompt_ids) + sum(map(len, group.completion_ids))


def test_padded_rows_go_with_others_of_their_length() -> None:
    groups = [sized(10, n, n) for n in (5, 45, 5, 45)]
    assert plan(groups, 220, shared=False) == [[1, 3], [0, 2]]
    assert plan(groups, 219, shared=False) == [[1], [3], [0, 2]]
    assert plan(groups, 1, shared=False) == [[1], [3], [0], [2]]


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
    here, moved = collate([PAIR]), collate([PAIR]).to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 8 and {t.device.type for t in tensors} == {"meta"}
    assert moved.segments == here.segments
