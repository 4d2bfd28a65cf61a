"""Truncated importance sampling: right without the cut, bounded with it."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from accord.errors import ConfigError
from accord.objectives.importance import importance_weights, mismatch_kl

MASK_CT = torch.tensor([[True, True], [True, False]])
SAMPLER_CT = torch.tensor([[-1.0, -2.0], [-0.5, torch.nan]], dtype=torch.float64)


def test_a_trusted_sampler_has_weights_of_one_and_no_mismatch() -> None:
    for level in ("token", "sequence"):
        weights_CT = importance_weights(SAMPLER_CT, SAMPLER_CT, MASK_CT, cap=1.0, level=level)
        assert weights_CT.tolist() == [[1.0, 1.0], [1.0, 0.0]]
    assert float(mismatch_kl(SAMPLER_CT, SAMPLER_CT, MASK_CT)) == 0.0


def test_tokens_or_their_product_are_cut() -> None:
    logps_CT = SAMPLER_CT + torch.tensor([[1.5, 0.25], [1.1, 1.0]], dtype=torch.float64).log()
    by_token = importance_weights(logps_CT, SAMPLER_CT, MASK_CT, cap=1.2)
    assert_close(by_token, torch.tensor([[1.2, 0.25], [1.1, 0.0]]).double(), rtol=1e-6, atol=1e-6)
    logps_CT = SAMPLER_CT + torch.tensor([[1.5, 0.9], [3.0, 1.0]], dtype=torch.float64).log()
    whole = importance_weights(logps_CT, SAMPLER_CT, MASK_CT, cap=2.0, level="sequence")
    assert_close(whole, torch.tensor([[1.35, 1.35], [2.0, 0.0]]).double(), rtol=1e-6, atol=1e-6)


def test_uncut_weights_turn_the_samplers_mean_into_the_trainers() -> None:
    sampler_V = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    trainer_V = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64).log()
    value_V = torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64)
    mask_CT = torch.ones(3, 1, dtype=torch.bool)
    weights_V = importance_weights(trainer_V[:, None], sampler_V[:, None], mask_CT, cap=100.0)[:, 0]
    assert_close((sampler_V.exp() * weights_V * value_V).sum(), (trainer_V.exp() * value_V).sum())


def test_the_mismatch_is_the_divergence_of_sampler_from_trainer() -> None:
    """1000 tokens in the sampler's own proportions."""
    counts, sampler_V = torch.tensor([200, 500, 300]), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    trainer_V = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    drawn = torch.repeat_interleave(torch.arange(3), counts)[:, None]
    got = mismatch_kl(trainer_V.log()[drawn], sampler_V.log()[drawn], torch.ones(1000, 1, dtype=torch.bool))
    assert_close(got, (sampler_V * (sampler_V / trainer_V).log()).sum())


def test_a_cap_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at least 1, not 0\.5"):
        importance_weights(SAMPLER_CT, SAMPLER_CT, MASK_CT, cap=0.5)
