"""GRPO: sums that neither padding nor splitting can change, exact gradients, and each paper's one change."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from accord.errors import ConfigError
from accord.objectives import grpo, ppo

C, T = 5, 7
LENGTHS_C = torch.tensor([7, 1, 4, 6, 3])
MASK_CT = torch.arange(T) < LENGTHS_C[:, None]
GRPO = {"clip_low": 0.2, "clip_high": 0.28, "kl_coef": 0.3, "kl_estimator": "k3_corrected"}


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss_and_gradient(
    level: str, loss_type: str, keep: slice = slice(None), padding: int = 0
) -> tuple[Tensor, Tensor, dict[str, tuple[float, float]]]:
    """grpo_loss of some completions, with more columns and NaN wherever no token stands."""
    mask_CT = torch.cat([MASK_CT, torch.zeros(C, padding, dtype=torch.bool)], 1)[keep]

    def column(seed: int, scale: float = 1.0) -> Tensor:
        full_CT = torch.cat([scale * draw(seed, C, T), torch.zeros(C, padding, dtype=torch.float64)], 1)
        return torch.where(mask_CT, full_CT[keep], math.nan)

    old_CT = column(0)
    logps_CT = (old_CT + column(2, 0.3)).requires_grad_()
    terms = grpo.grpo_loss(
        logps_CT,
        old_logps_CT=old_CT,
        ref_logps_CT=column(1),
        advantages_CT=column(4),
        mask_CT=mask_CT,
        level=level,
        loss_type=loss_type,
        **GRPO,
    )
    metrics = {name: (float(total), float(count)) for name, (total, count) in terms.metrics.items()}
    return terms.loss.detach(), torch.autograd.grad(terms.loss, logps_CT)[0], metrics


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_padding_and_micro_batches_change_nothing(level: str, loss_type: str) -> None:
    loss, gradient, metrics = loss_and_gradient(level, loss_type)
    padded = loss_and_gradient(level, loss_type, padding=4)
    assert_close(padded[0], loss)
    assert_close(padded[1][:, :T], gradient)
    assert (padded[1][:, T:] == 0).all() and gradient[MASK_CT].abs().sum() > 0
    halves = [loss_and_gradient(level, loss_type, part) for part in (slice(2), slice(2, None))]
    assert_close(halves[0][0] + halves[1][0], loss)
    assert_close(torch.cat([half[1] for half in halves]), gradient)
    for name, pair in metrics.items():
        assert padded[2][name] == pytest.approx(pair), name
        summed = tuple(a + b for a, b in zip(halves[0][2][name], halves[1][2][name], strict=True))
        assert summed == pytest.approx(pair), name


def test_equal_clips_and_tokens_are_ppo() -> None:
    old_CT, advantages_CT = draw(0, C, T), draw(1, C, T)
    logps_CT = old_CT + 0.3 * draw(2, C, T)
    tensors = logps_CT, old_CT, advantages_CT, MASK_CT
    ours, theirs = (
        grpo.clipped_loss(*tensors, clip_low=0.2, clip_high=0.2),
        ppo.policy_loss(*tensors, clip_range=0.2),
    )
    assert_close(ours.loss, theirs.loss)
    assert ours.metrics.keys() == theirs.metrics.keys()
    for name, pair in theirs.metrics.items():
        got = tuple(map(float, ours.metrics[name]))
        assert got == pytest.approx(tuple(map(float, pair))), name


def one_token(ratio: float, advantage: float, level: str = "token") -> tuple[float, float]:
    """Loss and gradient for a single token at this ratio."""
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    ones = torch.ones(1, 1, dtype=torch.float64)
    terms = grpo.clipped_loss(
        logp, 0 * ones, advantage * ones, ones.bool(), clip_low=0.2, clip_high=0.5, level=level
    )
    return float(terms.loss), float(torch.autograd.grad(terms.loss, logp)[0])


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.4, 1.0, -1.4, -1.4),  # above 1.2 but below clip-higher's 1.5: still learns
        (1.6, 1.0, -1.5, 0.0),  # too far up
        (0.5, 1.0, -0.5, -0.5),  # a good token that fell: may always come back
        (0.7, -1.0, 0.8, 0.0),  # too far down
        (1.6, -1.0, 1.6, 1.6),  # a bad token that rose: may always go down
    ],
)
def test_the_clip_is_one_sided(
    level: str, ratio: float, advantage: float, loss: float, gradient: float
) -> None:
    assert one_token(ratio, advantage, level) == pytest.approx((loss, gradient))


def test_a_sequence_is_clipped_as_a_whole() -> None:
    """Ratios e^0.4 and e^-0.4 cancel: GSPO keeps both tokens, the token level clips the one that rose."""
    logps_CT = torch.tensor([[0.4, -0.4]], dtype=torch.float64, requires_grad=True)
    ones_CT, mask_CT = torch.ones(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.bool)
    found = {}
    for level in ("token", "sequence"):
        terms = grpo.clipped_loss(
            logps_CT, 0 * ones_CT, ones_CT, mask_CT, clip_low=0.2, clip_high=0.2, level=level
        )
        found[level] = torch.autograd.grad(terms.loss, logps_CT)[0][0].tolist()
    assert found["sequence"] == pytest.approx([-1.0, -1.0])
    assert found["token"] == pytest.approx([0.0, -math.exp(-0.4)])


def test_at_the_start_the_gradient_is_reinforces() -> None:
    """ρ = 1: -A on every token of a completion, times its weight, at either level."""
    logps_CT, advantages_C = draw(0, C, T), draw(1, C)
    for level in ("token", "sequence"):
        new_CT = logps_CT.clone().requires_grad_()
        terms = grpo.clipped_loss(
            new_CT,
            logps_CT,
            advantages_C[:, None].expand(C, T),
            MASK_CT,
            clip_low=1e-4,
            clip_high=1e-4,
            level=level,
            weights_C=grpo.completion_weights(MASK_CT, "grpo"),
        )
        want_CT = torch.where(MASK_CT, (-advantages_C / LENGTHS_C)[:, None], 0.0)
        assert_close(torch.autograd.grad(terms.loss, new_CT)[0], want_CT)
        assert tuple(map(float, terms.metrics["val/ratio"])) == (int(LENGTHS_C.sum()),) * 2


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=8))
@settings(deadline=None)
def test_what_a_completion_weighs_in_the_mean(lengths: list[int]) -> None:
    """grpo: all alike; dapo: by length; dr_grpo: by length, but out of a constant, whatever the rest."""
    mask_CT = torch.arange(20) < torch.tensor(lengths)[:, None]
    for loss_type, want in (
        ("grpo", [1 / len(lengths)] * len(lengths)),
        ("dapo", [n / sum(lengths) for n in lengths]),
        ("dr_grpo", [n / (20 * len(lengths)) for n in lengths]),
    ):
        count = grpo.loss_count(lengths, loss_type, max_length=20)
        share_C = grpo.completion_weights(mask_CT, loss_type) * mask_CT.sum(1) / count
        assert share_C.tolist() == pytest.approx(want)


def test_groups_of_equal_scores_are_found() -> None:
    scores_C, group_C = torch.tensor([1.0, -2.0, 1.0, -2.0, 5.0, 4.0]), torch.tensor([7, 3, 7, 3, 1, 1])
    assert grpo.varied_groups(scores_C, group_C).tolist() == [False] * 4 + [True] * 2


def test_the_batchs_deviation_is_one_scale_for_all_prompts() -> None:
    scores_C, group_C = torch.tensor([1.0, 2.0, 10.0, 30.0]), torch.tensor([0, 0, 1, 1])
    assert_close(
        grpo.grpo_advantages(scores_C, group_C, scale="batch", eps=0.0),
        torch.tensor([-0.5, 0.5, -10.0, 10.0]) / scores_C.std(),
    )


def test_the_overlong_penalty_grows_over_its_buffer() -> None:
    got_C = grpo.overlong_penalty(torch.tensor([1, 6, 7, 8, 9, 10, 12]), max_length=10, buffer=4)
    assert got_C.tolist() == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    for buffer in (0, 11):
        with pytest.raises(ConfigError, match=f"overlong buffer \\({buffer}\\)"):
            grpo.overlong_penalty(torch.tensor([1]), max_length=10, buffer=buffer)


def test_without_a_coefficient_there_is_no_kl() -> None:
    tensors = {"old_logps_CT": draw(0, C, T), "ref_logps_CT": draw(1, C, T), "advantages_CT": draw(2, C, T)}
    settings = {**GRPO, "kl_coef": 0.0, "level": "token", "loss_type": "dapo", "mask_CT": MASK_CT}
    assert "loss/kl_avg" not in grpo.grpo_loss(draw(3, C, T), **tensors, **settings).metrics


def test_unknown_names_and_shapes_are_refused() -> None:
    tensors = draw(0, C, T), draw(1, C, T), draw(2, C, T), MASK_CT
    with pytest.raises(ConfigError, match=r"unknown KL estimator 'k1' for a loss"):
        grpo.kl_loss(*tensors, estimator="k1")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"unknown loss_type 'mean'"):
        grpo.completion_weights(MASK_CT, "mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="differ in shape"):
        grpo.clipped_loss(*tensors[:2], draw(2, C, 1), MASK_CT, clip_low=0.2, clip_high=0.2)
    with pytest.raises(ValueError, match="weights_C"):
        grpo.kl_loss(*tensors, estimator="k2", weights_C=torch.ones(C - 1))
