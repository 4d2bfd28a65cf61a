"""Trainers of TRL that were never initialised, and models whose log-probabilities are planted.

TRL computes its losses inside of its trainers. Here their own methods run on what they are handed: an
attribute that a test forgot raises AttributeError. TRL lies where `make test` puts it; tests that import
this are skipped without it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / ".peers" / "trl-1.16.0"))
pytest.importorskip("trl", reason="TRL is not here (`make test` installs it)")

from trl import DPOTrainer, GRPOTrainer, KTOTrainer, RLOOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.online_dpo import OnlineDPOTrainer
from trl.experimental.orpo import ORPOTrainer

__all__ = [
    "CPOTrainer",
    "DPOTrainer",
    "GRPOTrainer",
    "KTOTrainer",
    "ORPOTrainer",
    "OnlineDPOTrainer",
    "RLOOTrainer",
]

LONGEST = 7  # tokens of an answer


def assert_equals_trl(
    ours: Tensor, theirs: Tensor, logps: Tensor, rel: float = 1e-6, near: float = 1e-9
) -> None:
    """The loss, to `near` where its terms cancel, and its gradient by the log-probabilities."""
    assert ours.item() == pytest.approx(theirs.item(), rel=rel, abs=near)
    slopes = [torch.autograd.grad(loss, logps, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*slopes, rtol=10 * rel, atol=rel / 10)


def assert_differs_from_trl(ours: Tensor, theirs: Tensor) -> None:
    assert abs(ours.item() - theirs.item()) > 1e-3 * abs(theirs.item())


def bare(kind: type, **attributes: Any) -> Any:
    """A trainer in one process that has just these attributes."""
    trainer = kind.__new__(kind)
    same: Callable[..., Any] = lambda x, **_: x  # noqa: E731
    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=1,
        process_index=0,
        gather=same,
        gather_for_metrics=same,
        reduce=same,
        backward=lambda loss: None,
    )
    common = {
        "accelerator": accelerator,
        "model": planted(None),
        "_metrics": {"train": defaultdict(list)},
        "aux_loss_enabled": False,
    }
    vars(trainer).update({**common, **attributes})
    return trainer


def planted(logps: Tensor | None) -> Any:
    """A stand-in for a model that knows but the log-probabilities of its answers' tokens."""
    return SimpleNamespace(training=True, is_gradient_checkpointing=False, logps=logps, train=lambda: None)


def known(model: Any, *_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
    """Log-probabilities, entropies, auxiliary loss."""
    return model.logps, torch.zeros_like(model.logps), None
