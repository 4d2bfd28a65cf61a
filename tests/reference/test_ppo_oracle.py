"""PPO, KL and SFT against the float64 oracles, on ragged batches whose padding is garbage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.objectives import kl, ppo, sft
from accord.records import Terms
from reference import oracles
from reference.ragged import Ragged, ragged

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
FAST = settings(max_examples=60, deadline=None)


def metric(terms: Terms, name: str) -> tuple[float, float]:
    total, count = terms.metrics[name]
    return float(total), float(count)


@given(batch=ragged())
@FAST
def test_kl_estimators(batch: Ragged) -> None:
    logps, ref = batch.logps(), batch.logps()
    for name, index in (("k1", 0), ("k2", 1), ("k3", 2)):
        want = [
            [oracles.kl_estimates(q, p)[index] for q, p in zip(*pair, strict=True)]
            for pair in zip(logps, ref, strict=True)
        ]
        got_CT = getattr(kl, name)(batch.tensor(logps), batch.tensor(ref))
        torch.testing.assert_close(got_CT[batch.mask_CT], batch.tensor(want)[batch.mask_CT], **CLOSE)


@given(batch=ragged(), clip_range=st.floats(0.01, 0.5))
@FAST
def test_policy_loss(batch: Ragged, clip_range: float) -> None:
    old = batch.logps()
    logps, advantages = batch.near(old, 0.4), batch.rows()
    got = ppo.policy_loss(
        batch.tensor(logps),
        batch.tensor(old),
        batch.tensor(advantages),
        batch.mask_CT,
        clip_range=clip_range,
    )
    want = oracles.policy_loss(logps, old, advantages, clip_range)
    assert float(got.loss) == pytest.approx(want["loss"], rel=1e-9, abs=1e-9)
    for name, key in (
        ("loss/policy_avg", "loss"),
        ("policy/approxkl_avg", "approxkl"),
        ("policy/clipfrac_avg", "clipfrac"),
        ("val/ratio", "ratio"),
    ):
        assert metric(got, name) == pytest.approx((want[key], want["count"]), rel=1e-9, abs=1e-9)


@given(batch=ragged(), clip_range=st.floats(0.01, 0.5))
@FAST
def test_value_loss(batch: Ragged, clip_range: float) -> None:
    old, returns = batch.rows(), batch.rows()
    values = batch.near(old, 0.4)
    got = ppo.value_loss(
        batch.tensor(values), batch.tensor(old), batch.tensor(returns), batch.mask_CT, clip_range=clip_range
    )
    want = oracles.value_loss(values, old, returns, clip_range)
    assert float(got.loss) == pytest.approx(want["loss"], rel=1e-9, abs=1e-9)
    for name, key in (
        ("loss/value_avg", "loss"),
        ("val/clipfrac_avg", "clipfrac"),
        ("val/error", "error"),
        ("returns/mean", "returns"),
        ("returns/mean_square", "squares"),
    ):
        assert metric(got, name) == pytest.approx((want[key], want["count"]), rel=1e-9, abs=1e-9)


@given(batch=ragged(), vf_coef=st.floats(0, 2))
@FAST
def test_ppo_loss(batch: Ragged, vf_coef: float) -> None:
    old_logps, old_values, advantages, returns = batch.logps(), batch.rows(), batch.rows(), batch.rows()
    logps, values = batch.near(old_logps, 0.4), batch.near(old_values, 0.4)
    got = ppo.ppo_loss(
        batch.tensor(logps),
        batch.tensor(values),
        old_logps_CT=batch.tensor(old_logps),
        old_values_CT=batch.tensor(old_values),
        advantages_CT=batch.tensor(advantages),
        returns_CT=batch.tensor(returns),
        mask_CT=batch.mask_CT,
        clip_range=0.2,
        value_clip_range=0.3,
        vf_coef=vf_coef,
    )
    policy = oracles.policy_loss(logps, old_logps, advantages, 0.2)["loss"]
    value = oracles.value_loss(values, old_values, returns, 0.3)["loss"]
    assert float(got.loss) == pytest.approx(policy + vf_coef * value, rel=1e-9, abs=1e-9)
    assert {"loss/policy_avg", "loss/value_avg"} <= got.metrics.keys()


@given(batch=ragged(), kl_coef=st.floats(0, 1))
@FAST
def test_shape_rewards(batch: Ragged, kl_coef: float) -> None:
    logps, ref = batch.logps(), batch.logps()
    scores = list(batch.rng.normal(size=len(logps)))
    got_CT = ppo.shape_rewards(
        torch.tensor(scores, dtype=torch.float64),
        batch.tensor(logps),
        batch.tensor(ref),
        batch.mask_CT,
        kl_coef,
    )
    want_CT = batch.tensor(oracles.shape_rewards(scores, logps, ref, kl_coef), 0.0)
    torch.testing.assert_close(got_CT, want_CT, **CLOSE)


@given(batch=ragged(), gamma=st.floats(0.5, 1), lam=st.floats(0, 1))
@FAST
def test_gae(batch: Ragged, gamma: float, lam: float) -> None:
    rewards, values = batch.rows(), batch.rows()
    got = ppo.gae(batch.tensor(rewards), batch.tensor(values), batch.mask_CT, gamma=gamma, lam=lam)
    want = oracles.gae(rewards, values, gamma, lam)
    for got_CT, rows in zip(got, want, strict=True):
        torch.testing.assert_close(got_CT, batch.tensor(rows, 0.0), **CLOSE)


@given(batch=ragged(), shift_mean=st.booleans(), offset=st.floats(-3, 3))
@FAST
def test_whiten(batch: Ragged, shift_mean: bool, offset: float) -> None:
    rows = [[x + offset for x in row] for row in batch.rows(2.0)]
    got_CT = ppo.whiten(batch.tensor(rows), batch.mask_CT, shift_mean=shift_mean)
    want_CT = batch.tensor(oracles.whiten(rows, shift_mean), 0.0)
    torch.testing.assert_close(got_CT, want_CT, **CLOSE)


@given(
    coef=st.floats(0.001, 1),
    kl_now=st.floats(-5, 50),
    target=st.floats(0.1, 20),
    episodes=st.integers(1, 2000),
)
@FAST
def test_kl_controller(coef: float, kl_now: float, target: float, episodes: int) -> None:
    got = ppo.update_kl_coef(coef, kl_now, target=target, n_episodes=episodes, horizon=10_000)
    assert got == pytest.approx(oracles.kl_controller(coef, kl_now, target, episodes, 10_000), rel=1e-12)


@given(batch=ragged())
@FAST
def test_nll(batch: Ragged) -> None:
    logps = batch.logps()
    weights = list(batch.rng.uniform(0, 2, size=len(logps)))
    weight_C = torch.tensor(weights, dtype=torch.float64)
    ones = [1.0] * len(logps)
    got = sft.nll(batch.tensor(logps), batch.mask_CT, weight_C)
    assert float(got.loss) == pytest.approx(oracles.nll(logps, weights), rel=1e-9)
    assert float(sft.nll(batch.tensor(logps), batch.mask_CT).loss) == pytest.approx(
        oracles.nll(logps, ones), rel=1e-9
    )
    assert metric(got, "loss/nll_avg") == pytest.approx((oracles.nll(logps, ones), batch.mask.sum()))


def test_whiten_matches_published_numbers() -> None:
    """The worked example in "The N implementation details of RLHF with PPO", mean kept, biased variance."""
    x_CT = torch.tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]], dtype=torch.float64)
    want = [
        [0.05080712, 0.4381051, 0.8254035],
        [1.2127019, 1.6000004, 1.9872988],
        [2.3745968, 2.7618952, 3.1491938],
    ]
    got_CT = ppo.whiten(x_CT, torch.ones(3, 3, dtype=torch.bool), shift_mean=False)
    np.testing.assert_allclose(got_CT.numpy(), want, rtol=0, atol=2e-6)
