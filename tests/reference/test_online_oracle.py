"""The on-policy methods against the float64 oracles, on ragged batches whose padding is garbage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from accord.objectives import grpo, importance, online_dpo, ptx, reinforce, xpo
from reference import online_oracles as oracles
from reference.ragged import Ragged, ragged

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
FAST = settings(max_examples=40, deadline=None)


def vector(values: object) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float64)


def grouped(batch: Ragged) -> tuple[list[float], list[int]]:
    """Scores (some of them equal) and groups of at least two for a batch's completions, in random order."""
    n = len(batch.mask)
    groups = [i // 2 for i in range(n - n % 2)] + [0] * (n % 2)
    scores = batch.rng.integers(-2, 3, size=n) + batch.rng.choice([0.0, 0.5], size=n)
    return list(scores), [int(g) for g in batch.rng.permutation(groups)]


@st.composite
def at_least_two(draw: st.DrawFn) -> Ragged:
    return draw(ragged().filter(lambda batch: len(batch.mask) > 1))


@given(batch=at_least_two(), scale=st.sampled_from(["group", "batch", "none"]))
@FAST
def test_grpo_advantages(batch: Ragged, scale: str) -> None:
    scores, groups = grouped(batch)
    got_C = grpo.grpo_advantages(vector(scores), torch.tensor(groups), scale=scale)
    torch.testing.assert_close(got_C, vector(oracles.grpo_advantages(scores, groups, scale)), **CLOSE)


@given(batch=at_least_two())
@FAST
def test_varied_groups(batch: Ragged) -> None:
    scores, groups = grouped(batch)
    got_C = grpo.varied_groups(vector(scores), torch.tensor(groups))
    assert got_C.tolist() == oracles.varied(scores, groups)


@given(longest=st.integers(1, 30), data=st.data())
@FAST
def test_overlong_penalty(longest: int, data: st.DataObject) -> None:
    cache = data.draw(st.integers(1, longest))
    lengths = list(range(longest + 4))
    got_C = grpo.overlong_penalty(torch.tensor(lengths), max_length=longest, buffer=cache)
    want = [-oracles.overlong(length, longest, cache) for length in lengths]
    torch.testing.assert_close(got_C.double(), vector(want), rtol=1e-6, atol=1e-6)


@given(
    batch=ragged(),
    loss_type=st.sampled_from(["grpo", "dapo", "dr_grpo"]),
    level=st.sampled_from(["token", "sequence"]),
    estimator=st.sampled_from(["k2", "k3", "k3_corrected"]),
    clips=st.tuples(st.floats(0.01, 0.5), st.floats(0.01, 0.5)),
    beta=st.sampled_from([0.0, 0.04, 1.0]),
)
@settings(max_examples=120, deadline=None)
def test_grpo_loss(
    batch: Ragged, loss_type: str, level: str, estimator: str, clips: tuple[float, float], beta: float
) -> None:
    old, ref = batch.logps(), batch.logps()
    logps, advantages = batch.near(old, 0.4), batch.rows()
    longest = batch.mask.shape[1] + 3
    got = grpo.grpo_loss(
        batch.tensor(logps),
        old_logps_CT=batch.tensor(old),
        ref_logps_CT=batch.tensor(ref),
        advantages_CT=batch.tensor(advantages),
        mask_CT=batch.mask_CT,
        clip_low=clips[0],
        clip_high=clips[1],
        level=level,
        loss_type=loss_type,
        kl_coef=beta,
        kl_estimator=estimator,
    )
    count = grpo.loss_count([len(row) for row in logps], loss_type, max_length=longest)
    want = oracles.grpo_objective(
        logps,
        old,
        ref,
        advantages,
        low=clips[0],
        high=clips[1],
        sequence=level == "sequence",
        loss_type=loss_type,
        longest=longest,
        beta=beta,
        estimator=estimator,
    )
    assert float(got.loss) / count == pytest.approx(want, rel=1e-9, abs=1e-9)


@given(batch=at_least_two(), beta=st.floats(0, 1))
@FAST
def test_rloo_advantages(batch: Ragged, beta: float) -> None:
    (scores, groups), logps, ref = grouped(batch), batch.logps(), batch.logps()
    got_C = reinforce.rloo_advantages(
        vector(scores),
        batch.tensor(logps),
        batch.tensor(ref),
        batch.mask_CT,
        torch.tensor(groups),
        kl_coef=beta,
    )
    want = oracles.rloo_advantages(scores, logps, ref, groups, beta)
    torch.testing.assert_close(got_C, vector(want), **CLOSE)


@given(batch=ragged(), clip_range=st.floats(0.05, 0.5))
@FAST
def test_sequence_loss(batch: Ragged, clip_range: float) -> None:
    old = batch.logps()
    logps, advantages = batch.near(old, 0.1), list(batch.rng.normal(size=len(old)))
    got = reinforce.sequence_loss(
        batch.tensor(logps), batch.tensor(old), vector(advantages), batch.mask_CT, clip_range=clip_range
    )
    want = oracles.sequence_loss(logps, old, advantages, clip_range)
    assert float(got.loss) == pytest.approx(want, rel=1e-9, abs=1e-9)


@given(batch=at_least_two(), beta=st.floats(0, 1), gamma=st.floats(0.5, 1), baseline=st.booleans())
@FAST
def test_reinforce_plus_plus(batch: Ragged, beta: float, gamma: float, baseline: bool) -> None:
    (scores, groups), logps, ref = grouped(batch), batch.logps(), batch.logps()
    got_CT = reinforce.reinforce_plus_plus_advantages(
        vector(scores),
        batch.tensor(logps),
        batch.tensor(ref),
        batch.mask_CT,
        kl_coef=beta,
        gamma=gamma,
        group_C=torch.tensor(groups) if baseline else None,
    )
    want = oracles.reinforce_plus_plus(scores, logps, ref, beta, gamma, groups if baseline else None)
    torch.testing.assert_close(got_CT, batch.tensor(want, 0.0), rtol=1e-7, atol=1e-7)


@given(batch=at_least_two(), beta=st.floats(0.01, 2))
@FAST
def test_online_dpo(batch: Ragged, beta: float) -> None:
    (scores, groups), logps, ref = grouped(batch), batch.logps(), batch.logps()
    pairs = online_dpo.best_and_worst(vector(scores), torch.tensor(groups))
    want = oracles.best_and_worst(scores, groups)
    assert list(zip(*(side.tolist() for side in pairs), strict=True)) == want
    got = online_dpo.online_dpo_loss(batch.tensor(logps), batch.tensor(ref), batch.mask_CT, pairs, beta=beta)
    assert float(got.loss) == pytest.approx(oracles.dpo(logps, ref, want, beta), rel=1e-9, abs=1e-9)


@given(batch=at_least_two(), beta=st.floats(0.01, 2), alpha=st.sampled_from([0.0, 1e-3, 0.5]))
@FAST
def test_xpo(batch: Ragged, beta: float, alpha: float) -> None:
    (scores, _), logps, ref = grouped(batch), batch.logps(), batch.logps()
    own, theirs = list(range(0, len(logps) - 1, 2)), list(range(1, len(logps), 2))
    drawn = [(a, b) if scores[a] > scores[b] else (b, a) for a, b in zip(own, theirs, strict=True)]
    decided = [pair for pair in drawn if scores[pair[0]] != scores[pair[1]]]
    pairs = online_dpo.better_and_worse(vector(scores), torch.tensor(own), torch.tensor(theirs))
    assert list(zip(*(side.tolist() for side in pairs), strict=True)) == decided
    explored = [i for pair in decided for i in pair if i in theirs]
    got = xpo.xpo_loss(
        batch.tensor(logps),
        batch.tensor(ref),
        batch.mask_CT,
        pairs,
        torch.tensor(explored, dtype=torch.long),
        beta=beta,
        alpha=alpha,
    )
    want = oracles.xpo(logps, ref, decided, explored, beta, alpha)
    assert float(got.loss) == pytest.approx(want, rel=1e-9, abs=1e-9)


@given(batch=ragged(), cap=st.floats(1, 3), level=st.sampled_from(["token", "sequence"]))
@FAST
def test_importance(batch: Ragged, cap: float, level: str) -> None:
    sampler = batch.logps()
    logps = batch.near(sampler, 0.3)
    tensors = batch.tensor(logps), batch.tensor(sampler), batch.mask_CT
    got_CT = importance.importance_weights(*tensors, cap=cap, level=level)
    want = oracles.importance(logps, sampler, cap, level == "sequence")
    torch.testing.assert_close(got_CT, batch.tensor(want, 0.0), **CLOSE)
    got = float(importance.mismatch_kl(*tensors))
    assert got == pytest.approx(oracles.mismatch_kl(logps, sampler), rel=1e-9, abs=1e-9)


@given(batch=ragged(), coef=st.floats(0, 30), count=st.integers(1, 500))
@FAST
def test_ptx(batch: Ragged, coef: float, count: int) -> None:
    """After the engine's division, γ times the mean negative log-likelihood per token."""
    logps = batch.logps()
    flat = [x for row in logps for x in row]
    got = ptx.ptx_loss(batch.tensor(logps), batch.mask_CT, coef=coef, count=float(count), tokens=len(flat))
    assert float(got.loss) / count == pytest.approx(-coef * sum(flat) / len(flat), rel=1e-9, abs=1e-9)
