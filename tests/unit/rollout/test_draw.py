"""Drawing tokens: against a plain float64 inverse distribution function, and Hugging Face's nucleus."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TopPLogitsWarper

from accord.rollout.draw import draw, uniforms


def test_a_stream_is_fixed_by_seed_prompt_and_index():
    stream = uniforms(7, "prompt", 2, 50)
    np.testing.assert_array_equal(uniforms(7, "prompt", 2, 80)[:50], stream)
    assert stream.min() >= 0 and stream.max() < 1
    for other in (uniforms(8, "prompt", 2, 50), uniforms(7, "tpromp", 2, 50), uniforms(7, "prompt", 3, 50)):
        assert not np.any(other == stream)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 700),
    st.floats(0.2, 3.0),
    st.integers(0, 10_000),
    st.sampled_from([torch.float64, torch.float32]),
)
def test_draw_is_the_inverse_of_the_cumulative_distribution(vocab, temperature, seed, dtype):
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(size=(9, vocab)) * 3).to(dtype)
    points = rng.random(9)
    tokens, logps = draw(logits, torch.tensor(points), temperature=temperature, top_p=1.0)
    scaled = logits.double().numpy() / temperature
    expected_logps = scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)
    cumulative = np.exp(expected_logps).cumsum(axis=1)
    for row, token in enumerate(tokens.tolist()):
        slack = 1e-6 if dtype == torch.float32 else 1e-12  # a point on the edge may fall to either side
        below = cumulative[row, token - 1] if token else 0.0
        assert below - slack <= points[row] <= cumulative[row, token] + slack
        assert logps[row].item() == pytest.approx(
            expected_logps[row, token], abs=1e-5 if slack > 1e-9 else 1e-12
        )


def test_evenly_spread_points_reproduce_the_distribution():
    count, vocab = 4000, 600
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    points = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens, _ = draw(logits.expand(count, -1), points, temperature=0.7, top_p=1.0)
    shares = torch.bincount(tokens, minlength=vocab) / count
    assert (shares - (logits / 0.7).softmax(-1)).abs().max() <= 1.0 / count


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(
    "scale", [0.01, 3.0]
)  # nearly flat: the nucleus outgrows the first guess at its size
def test_nucleus_is_that_of_hugging_face(top_p, scale):
    vocab, count = 1000, 5000
    logits = torch.randn(1, vocab, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * scale
    nucleus = TopPLogitsWarper(top_p)(torch.zeros(1, 1, dtype=torch.long), logits / 1.3).softmax(-1)[0]
    points = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens, logps = draw(logits.expand(count, -1), points, temperature=1.3, top_p=top_p)
    assert (torch.bincount(tokens, minlength=vocab) / count - nucleus).abs().max() <= 1.0 / count
    full = (logits / 1.3).log_softmax(-1)[0]
    torch.testing.assert_close(logps, full[tokens], rtol=0, atol=1e-12)


def test_ties_at_the_edge_of_the_nucleus_are_all_kept():
    logits = torch.tensor([[2.0, 0.0, 0.0, -3.0]], dtype=torch.float64).expand(400, -1)
    points = torch.arange(400, dtype=torch.float64) / 400
    tokens, _ = draw(logits, points, temperature=1.0, top_p=0.85)  # the first has 0.78, each tie 0.106
    assert set(tokens.tolist()) == {0, 1, 2}


def test_temperature_zero_takes_the_best_and_records_temperature_one():
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, -1.0, 0.0]])
    tokens, logps = draw(logits, torch.tensor([0.01, 0.99]), temperature=0.0, top_p=1.0)
    assert tokens.tolist() == [1, 0]
    torch.testing.assert_close(logps, logits.double().log_softmax(-1).amax(-1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("point", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_impossible_tokens_are_never_drawn(point, dtype):
    logits = torch.full((1, 700), -torch.inf, dtype=dtype)
    logits[0, [300, 301, 555]] = torch.tensor([0.3, 0.1, 0.7], dtype=dtype)
    tokens, logps = draw(logits, torch.tensor([point], dtype=torch.float64), temperature=1.0, top_p=1.0)
    assert tokens.item() == (300 if point == 0 else 555)
    assert torch.isfinite(logps).all()


def test_rounding_cannot_push_the_last_point_past_the_last_possible_token():
    logits = torch.randn(300, 300, generator=torch.Generator().manual_seed(3)) * 2
    logits[:, 200:] = -torch.inf  # float32 sums of a block differ from the float64 sums of its tokens
    points = torch.full((300,), 1 - 2**-53, dtype=torch.float64)
    tokens, logps = draw(logits, points, temperature=1.0, top_p=1.0)
    assert tokens.max() < 200
    assert torch.isfinite(logps).all()


def test_logits_are_left_as_they_were():
    logits = torch.randn(3, 512, generator=torch.Generator().manual_seed(2))
    before = logits.clone()
    for temperature in (0.0, 1.0, 0.5):
        draw(logits, torch.rand(3), temperature=temperature, top_p=0.9)
    assert torch.equal(logits, before)
