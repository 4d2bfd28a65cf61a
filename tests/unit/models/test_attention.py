"""Attention over segments against softmax over a dense mask, and who may use it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from accord.data.batches import Segment, collate
from accord.data.render import Encoded
from accord.errors import ModelError
from accord.models.attention import over_segments, segmented
from accord.models.forward import hidden_states
from tiny import tiny_llama
from visible import visible


def dense(q: Tensor, k: Tensor, v: Tensor, segments: tuple[Segment, ...], scaling: float) -> Tensor:
    """The textbook's softmax(QKᵀ)V with a mask, keys repeated for their queries' heads; (1, F, H, d)."""
    repeat = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(repeat, dim=1) for x in (k, v))
    scores = (q @ k.transpose(2, 3) * scaling).masked_fill(~visible(segments), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


@st.composite
def rows(draw: st.DrawFn) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    for _ in range(draw(st.integers(1, 4))):
        number = len(segments)
        segments.append(Segment(draw(st.integers(1, 9))))
        segments += [Segment(n, after=number) for n in draw(st.lists(st.integers(1, 9), max_size=4))]
    return tuple(segments)


@settings(max_examples=60, deadline=None)
@given(rows(), st.sampled_from([(4, 4), (4, 2), (3, 1)]), st.sampled_from([8, 5]), st.integers(0, 1000))
def test_values_and_gradients_are_those_of_the_dense_mask(
    segments: tuple[Segment, ...], heads: tuple[int, int], size: int, seed: int
) -> None:
    """Values of a size of their own (5) go the way of other devices, one kernel call with autograd each."""
    length, generator = sum(s.length for s in segments), torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(1, h, length, d, dtype=torch.float64, generator=generator, requires_grad=True)
        for h, d in ((heads[0], 8), (heads[1], 8), (heads[1], size))
    )
    found, expected = over_segments(q, k, v, segments, 0.3), dense(q, k, v, segments, 0.3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights = torch.randn(found.shape, dtype=torch.float64, generator=generator)
    ours, theirs = (torch.autograd.grad((x * weights).sum(), (q, k, v)) for x in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_the_scale_is_one_over_the_root_of_the_size_unless_given() -> None:
    q, k, v = torch.randn(3, 1, 2, 5, 16, dtype=torch.float64)
    segments = (Segment(5),)
    torch.testing.assert_close(over_segments(q, k, v, segments), over_segments(q, k, v, segments, 0.25))


def test_outside_the_block_attention_is_the_models_own() -> None:
    model = tiny_llama()
    ids = torch.randint(9, (2, 7))
    before = model(input_ids=ids).logits
    batch = collate([Encoded((1, 2, 3), ((4, 5), (6,)))])
    hidden_states(model, batch)
    assert torch.equal(model(input_ids=ids).logits, before)


def test_a_layer_that_does_not_ask_is_noticed() -> None:
    model = tiny_llama()
    model.model.layers[1].self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    layers = len(model.model.layers)
    with pytest.raises(ModelError, match=rf"{layers - 1} of the model's {layers} layers .* shared=False"):
        hidden_states(model, collate([Encoded((1, 2, 3), ((4, 5), (6,)))]))


def test_an_error_inside_is_not_covered_by_the_count() -> None:
    with pytest.raises(ZeroDivisionError), segmented((Segment(1),), 2):
        _ = 1 / 0


@pytest.mark.parametrize("name", ["softcap", "position_bias", "s_aux"])
def test_what_segments_cannot_have_is_refused(name: str) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    q = torch.randn(1, 2, 3, 4)
    with pytest.raises(ModelError, match=f"attends with {name}"), segmented((Segment(3),), 0):
        ALL_ATTENTION_FUNCTIONS["sdpa"](torch.nn.Identity(), q, q, q, None, **{name: torch.ones(1)})


def test_half_precision_attends_in_float32_on_a_cpu() -> None:
    q, k, v = torch.randn(3, 1, 2, 6, 16, dtype=torch.bfloat16)
    segments = (Segment(2), Segment(4, after=0))
    found = over_segments(q, k, v, segments)
    wide = over_segments(q.float(), k.float(), v.float(), segments)
    assert found.dtype == torch.bfloat16 and torch.equal(found, wide.bfloat16())
