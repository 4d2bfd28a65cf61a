"""The offline preference losses against the float64 oracles, and where they differ from TRL on purpose."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.objectives import OFFLINE
from accord.objectives.kto import kl_baseline, kto_loss
from accord.objectives.pairs import PairLogps, chosen_nll
from accord.objectives.terms import add
from reference import offline_oracles as oracles
from reference.offline_oracles import Pair, Verdict

FAST = settings(max_examples=60, deadline=None)
SEED = st.integers(0, 2**32 - 1)
COUNT = st.integers(1, 9)
BETA = st.floats(0.01, 3)
EPSILON = st.floats(0, 0.45)


def vector(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_pairs(seed: int, count: int) -> list[Pair]:
    """Answers of 1 to 12 tokens, near their reference; the first pair's rewards are equal by any measure."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(count):
        n = [int(x) for x in rng.integers(1, 13, 2)]
        logps = [-float(k * rng.uniform(0.05, 3)) for k in n]
        refs = [min(-0.01, logp + float(rng.normal(0, 2))) for logp in logps]
        if i == 0:
            n[1], logps[1], refs[1] = n[0], logps[0], refs[0]
        pairs.append(Pair(*logps, *refs, *n, float(rng.uniform(0.1, 2)), float(rng.uniform(0, 3))))
    return pairs


def tensors(pairs: list[Pair]) -> PairLogps:
    columns = ("chosen", "rejected", "ref_chosen", "ref_rejected", "n_chosen", "n_rejected")
    return PairLogps(
        *(vector([float(getattr(p, c)) for p in pairs]) for c in columns),
        weight_P=vector([p.weight for p in pairs]),
        margin_P=vector([p.margin for p in pairs]),
    )


def assert_equals_oracle(
    name: str, pairs: list[Pair], own: dict[str, Any], losses: list[float], rewards: list[tuple[float, float]]
) -> None:
    """Loss and every metric, to 1e-9."""
    got = OFFLINE[name](tensors(pairs), **own)
    assert float(got.loss) == pytest.approx(oracles.total(pairs, losses), rel=1e-9, abs=1e-9)
    want = oracles.pair_metrics(pairs, losses, rewards)
    weight = sum(p.weight for p in pairs)
    assert got.metrics.keys() == want.keys()
    for metric, value in want.items():
        sums = tuple(float(x) for x in got.metrics[metric])
        assert sums == pytest.approx((value, weight), rel=1e-9, abs=1e-9), metric


@given(seed=SEED, count=COUNT, beta=BETA, margin_coef=st.floats(0, 2))
@FAST
def test_dpo(seed: int, count: int, beta: float, margin_coef: float) -> None:
    pairs = random_pairs(seed, count)
    losses = [oracles.dpo(p, beta, margin_coef) for p in pairs]
    rewards = [oracles.implicit_rewards(p, beta) for p in pairs]
    assert_equals_oracle("dpo", pairs, {"beta": beta, "margin_coef": margin_coef}, losses, rewards)


@pytest.mark.parametrize(("name", "oracle"), [("cdpo", oracles.cdpo), ("robust-dpo", oracles.robust_dpo)])
@given(seed=SEED, count=COUNT, beta=BETA, epsilon=EPSILON, margin_coef=st.floats(0, 2))
@FAST
def test_dpo_with_noisy_labels(
    name: str, oracle: Any, seed: int, count: int, beta: float, epsilon: float, margin_coef: float
) -> None:
    pairs = random_pairs(seed, count)
    own = {"beta": beta, "margin_coef": margin_coef, "label_smoothing": epsilon}
    losses = [oracle(p, beta, margin_coef, epsilon) for p in pairs]
    assert_equals_oracle(name, pairs, own, losses, [oracles.implicit_rewards(p, beta) for p in pairs])


@pytest.mark.parametrize("form", ["sum", "mean"])
@given(seed=SEED, count=COUNT, tau=BETA)
@FAST
def test_ipo(form: str, seed: int, count: int, tau: float) -> None:
    pairs = random_pairs(seed, count)
    ratios = [oracles.ipo_ratios(p, form) for p in pairs]
    rewards = [(tau * ratio_w, tau * ratio_l) for ratio_w, ratio_l in ratios]
    assert_equals_oracle(
        "ipo", pairs, {"beta": tau, "form": form}, [oracles.ipo(p, tau, form) for p in pairs], rewards
    )


@given(seed=SEED, count=COUNT, beta=st.floats(0.01, 1), epsilon=EPSILON)
@FAST
def test_cpo(seed: int, count: int, beta: float, epsilon: float) -> None:
    pairs = random_pairs(seed, count)
    rewards = [(beta * p.chosen, beta * p.rejected) for p in pairs]
    losses = [oracles.cpo(p, beta, epsilon) for p in pairs]
    assert_equals_oracle("cpo", pairs, {"beta": beta, "label_smoothing": epsilon}, losses, rewards)


@given(seed=SEED, count=COUNT, beta=BETA, gamma=st.floats(0, 3), epsilon=EPSILON)
@FAST
def test_simpo(seed: int, count: int, beta: float, gamma: float, epsilon: float) -> None:
    pairs = random_pairs(seed, count)
    own = {"beta": beta, "gamma": gamma, "label_smoothing": epsilon}
    rewards = [(beta * p.chosen / p.n_chosen, beta * p.rejected / p.n_rejected) for p in pairs]
    assert_equals_oracle(
        "simpo", pairs, own, [oracles.simpo(p, beta, gamma, epsilon) for p in pairs], rewards
    )


@given(seed=SEED, count=COUNT, lam=BETA)
@FAST
def test_orpo(seed: int, count: int, lam: float) -> None:
    pairs = random_pairs(seed, count)
    rewards = [(lam * p.chosen / p.n_chosen, lam * p.rejected / p.n_rejected) for p in pairs]
    assert_equals_oracle("orpo", pairs, {"beta": lam}, [oracles.orpo(p, lam) for p in pairs], rewards)


@given(seed=SEED, count=COUNT, coef=st.floats(0, 3))
@FAST
def test_the_sft_term(seed: int, count: int, coef: float) -> None:
    pairs = random_pairs(seed, count)
    both = add(OFFLINE["orpo"](tensors(pairs), beta=0.1), chosen_nll(tensors(pairs)), coef)
    sft = oracles.total(pairs, [oracles.chosen_nll(p) for p in pairs])
    ratio = oracles.total(pairs, [oracles.orpo(p, 0.1) for p in pairs])
    assert float(both.loss) == pytest.approx(ratio + coef * sft, rel=1e-9)
    metric = tuple(float(x) for x in both.metrics["loss/sft_avg"])
    assert metric == pytest.approx((sft, sum(p.weight for p in pairs)), rel=1e-9)


@given(
    seed=SEED,
    count=COUNT,
    beta=BETA,
    z0=st.floats(0, 5),
    lam_d=st.floats(0.1, 3),
    lam_u=st.floats(0.1, 3),
)
@FAST
def test_kto(seed: int, count: int, beta: float, z0: float, lam_d: float, lam_u: float) -> None:
    rng = np.random.default_rng(seed)
    verdicts = [
        Verdict(float(rng.normal(-9, 4)), float(rng.normal(-9, 4)), bool(rng.integers(2)), float(w))
        for w in rng.uniform(0.1, 2, count)
    ]
    got = kto_loss(
        vector([v.logp for v in verdicts]),
        vector([v.ref_logp for v in verdicts]),
        good_C=torch.tensor([v.good for v in verdicts]),
        baseline=z0,
        beta=beta,
        desirable_weight=lam_d,
        undesirable_weight=lam_u,
        weight_C=vector([v.weight for v in verdicts]),
    )
    loss = oracles.kto(verdicts, z0, beta, lam_d, lam_u)
    assert float(got.loss) == pytest.approx(loss, rel=1e-9, abs=1e-9)
    want = {
        **oracles.kto_metrics(verdicts, z0, beta),
        "loss/preference_avg": (loss, sum(v.weight for v in verdicts)),
    }
    assert got.metrics.keys() == want.keys()
    for metric, value in want.items():
        assert tuple(float(x) for x in got.metrics[metric]) == pytest.approx(value, rel=1e-9, abs=1e-9)


@given(seed=SEED, count=COUNT, shift=st.floats(-3, 3))
@FAST
def test_ktos_baseline(seed: int, count: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    ref = [float(x) for x in rng.normal(-9, 4, count)]
    logps = [x + shift + float(rng.normal()) for x in ref]
    want = oracles.kl_baseline([a - b for a, b in zip(logps, ref, strict=True)])
    assert float(kl_baseline(vector(logps), vector(ref))) == pytest.approx(want, rel=1e-9, abs=1e-9)


# --- TRL: what is the same, and what is not (its own code: test_trl_offline.py) -----------------------------

PAIRS = random_pairs(7, 5)


def loss(name: str, **own: Any) -> float:
    return float(OFFLINE[name](tensors(PAIRS), **own).loss)


def test_cdpo_smooths_where_trls_sigmoid_ignores_label_smoothing() -> None:
    """TRL 1.16, loss_type="sigmoid": the same number with and without label_smoothing, plain DPO's."""
    trl = oracles.total(PAIRS, [oracles.dpo(p, 0.3, 0.0) for p in PAIRS])
    assert loss("dpo", beta=0.3) == pytest.approx(trl, rel=1e-9)
    assert abs(loss("cdpo", beta=0.3, label_smoothing=0.1) / trl - 1) > 1e-3


def test_ipo_is_the_papers_by_default_and_trls_by_name() -> None:
    """TRL 1.16, loss_type="ipo": log-ratios divided by their answers' lengths before the square."""
    trl = oracles.total(PAIRS, [oracles.ipo(p, 0.1, "mean") for p in PAIRS])
    assert loss("ipo", beta=0.1, form="mean") == pytest.approx(trl, rel=1e-9)
    assert abs(loss("ipo", beta=0.1) / trl - 1) > 1e-2
    assert loss("ipo", beta=0.1) == loss("ipo", beta=0.1, form="sum")


def test_simpos_gamma_is_trls_simpo_gamma() -> None:
    trl = oracles.total(PAIRS, [oracles.simpo_as_trl(p, 2.5, 1.4) for p in PAIRS])
    assert loss("simpo", beta=2.5, gamma=1.4) == pytest.approx(trl, rel=1e-9)


def test_simpo_is_pure_where_trls_adds_sft_unless_told_not_to() -> None:
    """TRL 1.16: CPOTrainer with loss_type="simpo" adds cpo_alpha (1.0) times the likelihood."""
    trl = loss("simpo", beta=2.0, gamma=1.0) + oracles.total(PAIRS, [oracles.chosen_nll(p) for p in PAIRS])
    assert loss("simpo", beta=2.0, gamma=1.0) < trl - 0.1


def test_the_start_is_log_two() -> None:
    """Where the policy is its reference, DPO's loss is log 2 a pair, whatever the answers."""
    same = [Pair(p.chosen, p.rejected, p.chosen, p.rejected, p.n_chosen, p.n_rejected) for p in PAIRS]
    for name, own in (
        ("dpo", {}),
        ("cdpo", {"label_smoothing": 0.2}),
        ("robust-dpo", {"label_smoothing": 0.2}),
    ):
        terms = OFFLINE[name](tensors(same), beta=0.1, **own)
        assert float(terms.loss) == pytest.approx(len(same) * math.log(2), rel=1e-12)
