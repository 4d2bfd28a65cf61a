"""What is read off logits, against autograd through all of them in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from accord.models.readout import read_off


def reference(logits_nV: Tensor, targets_n: Tensor, entropy: bool) -> Tensor:
    chosen = torch.distributions.Categorical(logits=logits_nV)
    return torch.stack([chosen.log_prob(targets_n), chosen.entropy()][: 1 + entropy])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6), st.integers(2, 9), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 1000)
)
def test_values_and_gradients(
    count: int, vocabulary: int, entropy: bool, capped: bool, frozen: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, 5, dtype=torch.float64, generator=generator, requires_grad=not frozen)
    targets = torch.randint(vocabulary, (count,), generator=generator)

    def logits(h: Tensor) -> Tensor:
        made = h @ weight.T
        return 3 * torch.tanh(made / 3) if capped else made

    found = read_off(logits, hidden, targets, frozen=frozen, entropy=entropy)
    expected = reference(logits(hidden), targets, entropy)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights = torch.randn(found.shape, dtype=torch.float64, generator=generator)
    wanted = (hidden,) if frozen else (hidden, weight)
    ours, theirs = (torch.autograd.grad((x * weights).sum(), wanted) for x in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def counted(weight: Tensor) -> tuple[Callable[[Tensor], Tensor], list[int]]:
    calls: list[int] = []

    def logits(hidden: Tensor) -> Tensor:
        calls.append(len(hidden))
        return nn.functional.linear(hidden, weight)

    return logits, calls


@pytest.mark.parametrize(("frozen", "times"), [(True, 1), (False, 2)])
def test_the_logits_of_a_frozen_head_are_made_once(frozen: bool, times: int) -> None:
    logits, calls = counted(torch.randn(7, 4, requires_grad=not frozen))
    hidden = torch.randn(3, 4, requires_grad=True)
    read_off(logits, hidden, torch.tensor([1, 2, 3]), frozen=frozen, entropy=False).sum().backward()
    assert calls == [3] * times


def test_without_gradients_there_is_nothing_to_pull_back() -> None:
    logits, calls = counted(torch.randn(7, 4))
    with torch.no_grad():
        found = read_off(logits, torch.randn(3, 4), torch.tensor([1, 2, 3]), frozen=True, entropy=True)
    assert found.shape == (2, 3) and not found.requires_grad and calls == [3]


def test_logits_of_a_thousand_are_no_overflow() -> None:
    hidden = torch.tensor([[1000.0, -1000.0]], requires_grad=True)
    found = read_off(lambda h: h, hidden, torch.tensor([1]), frozen=True, entropy=True)
    assert found.tolist() == [[-2000.0], [0.0]]
    found[0].sum().backward()
    assert hidden.grad is not None and hidden.grad.tolist() == [[-1.0, 1.0]]
