"""Adding up terms, and refusing tensors that would broadcast."""

from __future__ import annotations

import pytest
import torch

from accord.objectives.terms import add, same_shape
from accord.records import Terms


def test_add_weighs_the_second_loss_and_keeps_all_metrics() -> None:
    first = Terms(torch.tensor(2.0), {"a": (1.0, 2.0)})
    second = Terms(torch.tensor(3.0), {"b": (5.0, 7.0)})
    both = add(first, second, 0.5)
    assert float(both.loss) == 3.5
    assert both.metrics == {"a": (1.0, 2.0), "b": (5.0, 7.0)}


def test_add_refuses_to_hide_a_metric() -> None:
    with pytest.raises(ValueError, match=r"\['a'\]"):
        add(Terms(torch.tensor(0.0), {"a": (1, 1)}), Terms(torch.tensor(0.0), {"a": (2, 1)}))


def test_same_shape_names_the_culprits() -> None:
    same_shape(x=torch.zeros(2, 3), y=torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"x \(2, 3\), y \(2, 1\)"):
        same_shape(x=torch.zeros(2, 3), y=torch.ones(2, 1))
