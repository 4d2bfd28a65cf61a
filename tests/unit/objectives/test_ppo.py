"""PPO: known worlds, exact gradients, and sums that neither padding nor splitting can change."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from accord.errors import ConfigError
from accord.objectives import ppo


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


C, T = 5, 7
LENGTHS_C = torch.tensor([7, 1, 4, 6, 3])
MASK_CT = torch.arange(T) < LENGTHS_C[:, None]


def loss_and_gradients(keep: slice = slice(None), padding: int = 0) -> tuple[Tensor, Tensor, Tensor, dict]:
    """ppo_loss of some completions, with `padding` more columns and NaN wherever no token stands."""
    mask_CT = torch.cat([MASK_CT, torch.zeros(C, padding, dtype=torch.bool)], 1)[keep]

    def column(seed: int, scale: float = 1.0) -> Tensor:
        full_CT = torch.cat([scale * draw(seed, C, T), torch.zeros(C, padding, dtype=torch.float64)], 1)
        return torch.where(mask_CT, full_CT[keep], math.nan)

    old_logps_CT, old_values_CT = column(0), column(1)
    logps_CT = (old_logps_CT + column(2, 0.3)).requires_grad_()
    values_CT = (old_values_CT + column(3, 0.3)).requires_grad_()
    terms = ppo.ppo_loss(
        logps_CT,
        values_CT,
        old_logps_CT=old_logps_CT,
        old_values_CT=old_values_CT,
        advantages_CT=column(4),
        returns_CT=column(5),
        mask_CT=mask_CT,
        clip_range=0.2,
        value_clip_range=0.2,
        vf_coef=0.1,
    )
    gradients = torch.autograd.grad(terms.loss, (logps_CT, values_CT))
    metrics = {name: (float(total), float(count)) for name, (total, count) in terms.metrics.items()}
    return terms.loss.detach(), *gradients, metrics


# --- sums, not means ---------------------------------------------------------------------------------------


def test_padding_changes_nothing() -> None:
    loss, logps_grad, values_grad, metrics = loss_and_gradients()
    padded_loss, padded_logps_grad, padded_values_grad, padded_metrics = loss_and_gradients(padding=6)
    assert_close(padded_loss, loss)
    assert_close(padded_logps_grad[:, :T], logps_grad)
    assert_close(padded_values_grad[:, :T], values_grad)
    for name, pair in metrics.items():
        assert padded_metrics[name] == pytest.approx(pair), name
    for grad in (padded_logps_grad, padded_values_grad):
        assert (grad[~torch.cat([MASK_CT, torch.zeros(C, 6, dtype=torch.bool)], 1)] == 0).all()
    assert logps_grad[MASK_CT].abs().sum() > 0 and values_grad[MASK_CT].abs().sum() > 0


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_micro_batches_add_up(cut: int) -> None:
    loss, logps_grad, values_grad, metrics = loss_and_gradients()
    first, second = loss_and_gradients(slice(None, cut)), loss_and_gradients(slice(cut, None))
    assert_close(first[0] + second[0], loss)
    assert_close(torch.cat([first[1], second[1]]), logps_grad)
    assert_close(torch.cat([first[2], second[2]]), values_grad)
    for name, (total, count) in metrics.items():
        parts = first[3][name], second[3][name]
        assert (parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]) == pytest.approx((total, count)), name


def test_no_real_token_is_a_loss_of_zero_with_a_gradient() -> None:
    logps_CT = draw(0, 2, 3).requires_grad_()
    terms = ppo.policy_loss(
        logps_CT, draw(1, 2, 3), draw(2, 2, 3), torch.zeros(2, 3, dtype=torch.bool), clip_range=0.2
    )
    (grad,) = torch.autograd.grad(terms.loss, logps_CT)
    assert terms.loss == 0 and (grad == 0).all()


# --- the clipped objective ---------------------------------------------------------------------------------


def test_at_ratio_one_the_gradient_is_reinforce() -> None:
    logits_CTV = draw(0, C, T, 4).requires_grad_()
    actions_CT = torch.randint(4, (C, T), generator=torch.Generator().manual_seed(1))
    advantages_CT = draw(2, C, T)
    logps_CT = logits_CTV.log_softmax(-1).gather(-1, actions_CT[..., None])[..., 0]
    terms = ppo.policy_loss(logps_CT, logps_CT.detach(), advantages_CT, MASK_CT, clip_range=0.2)
    (got,) = torch.autograd.grad(terms.loss, logits_CTV, retain_graph=True)
    (want,) = torch.autograd.grad(-(advantages_CT * logps_CT)[MASK_CT].sum(), logits_CTV)
    assert_close(got, want)


def test_at_the_same_policy_ratio_is_exactly_one_and_kl_exactly_zero() -> None:
    logps_CT = 20 * draw(0, C, T).float()
    terms = ppo.policy_loss(logps_CT, logps_CT.clone(), draw(1, C, T).float(), MASK_CT, clip_range=0.2)
    total, count = terms.metrics["val/ratio"]
    assert total == count == MASK_CT.sum()
    assert terms.metrics["policy/approxkl_avg"][0] == 0
    assert terms.metrics["policy/clipfrac_avg"][0] == 0


@pytest.mark.parametrize(
    ("advantage", "ratio", "flows"),
    [(1, 1.3, False), (1, 0.7, True), (-1, 0.7, False), (-1, 1.3, True), (1, 1.1, True), (-1, 0.9, True)],
)
def test_gradient_is_zero_exactly_where_clipped(advantage: float, ratio: float, flows: bool) -> None:
    """The clip stops a step that has already gone far enough; it never stops one back."""
    logps = torch.tensor([[math.log(ratio)]], requires_grad=True)
    terms = ppo.policy_loss(
        logps, torch.zeros(1, 1), torch.tensor([[float(advantage)]]), torch.tensor([[True]]), clip_range=0.2
    )
    (grad,) = torch.autograd.grad(terms.loss, logps)
    assert_close(grad, torch.tensor([[-advantage * ratio if flows else 0.0]]))
    assert bool(terms.metrics["policy/clipfrac_avg"][0] == 0) == flows


@pytest.mark.parametrize(("value", "flows"), [(0.5, False), (-0.5, True), (0.1, True)])
def test_value_clip_stops_a_critic_that_moved_far_towards_its_target(value: float, flows: bool) -> None:
    values = torch.tensor([[value]], requires_grad=True)
    returns = torch.tensor([[2.0]])
    terms = ppo.value_loss(
        values, torch.zeros(1, 1), returns, torch.ones(1, 1, dtype=torch.bool), clip_range=0.2
    )
    (grad,) = torch.autograd.grad(terms.loss, values)
    assert_close(grad, torch.tensor([[value - 2.0 if flows else 0.0]]))


def test_an_infinite_clip_never_clips() -> None:
    values, old, returns = draw(0, C, T) * 50, draw(1, C, T), draw(2, C, T)
    terms = ppo.value_loss(values, old, returns, MASK_CT, clip_range=math.inf)
    assert_close(terms.loss, (values - returns)[MASK_CT].square().sum() / 2)
    assert terms.metrics["val/clipfrac_avg"][0] == 0


def test_explained_variance() -> None:
    returns_CT = draw(0, C, T)
    returns_N = returns_CT[MASK_CT]

    def explained(values_CT: Tensor) -> float:
        metrics = ppo.value_loss(values_CT, values_CT, returns_CT, MASK_CT, clip_range=0.2).metrics
        means = [
            float(metrics[k][0] / metrics[k][1]) for k in ("val/error", "returns/mean", "returns/mean_square")
        ]
        return ppo.explained_variance(*means)

    assert explained(returns_CT) == 1
    assert explained(torch.full_like(returns_CT, float(returns_N.mean()))) == pytest.approx(0, abs=1e-9)
    assert explained(-returns_CT) < 0
    assert math.isnan(ppo.explained_variance(0.0, 1.0, 1.0))


# --- rewards and advantages --------------------------------------------------------------------------------


def test_score_lands_on_the_last_real_token_and_kl_on_each() -> None:
    logps_CT, ref_CT, scores_C = draw(0, C, T), draw(1, C, T), draw(2, C)
    rewards_CT = ppo.shape_rewards(scores_C, logps_CT, ref_CT, MASK_CT, 0.1)
    penalty_CT = -0.1 * torch.where(MASK_CT, logps_CT - ref_CT, 0.0)
    assert_close(rewards_CT.sum(1), penalty_CT.sum(1) + scores_C)
    for c, length in enumerate(LENGTHS_C.tolist()):
        assert_close(rewards_CT[c, length - 1] - penalty_CT[c, length - 1], scores_C[c])


def test_without_a_gap_to_the_reference_only_the_score_is_left() -> None:
    logps_CT, scores_C = draw(0, C, T), draw(1, C)
    rewards_CT = ppo.shape_rewards(scores_C, logps_CT, logps_CT.clone(), MASK_CT, 5.0)
    assert (rewards_CT.sum(1) == scores_C).all() and (rewards_CT != 0).sum() == C


def test_a_completion_without_tokens_cannot_be_rewarded() -> None:
    mask_CT = MASK_CT.clone()
    mask_CT[3] = False
    with pytest.raises(ValueError, match=r"completions \[3\] have no real token"):
        ppo.shape_rewards(draw(0, C), draw(1, C, T), draw(2, C, T), mask_CT, 0.1)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_gae_in_a_world_with_a_constant_critic(gamma: float, lam: float) -> None:
    """No reward, V = c everywhere: δ is (γ - 1) c on the way and -c at the end."""
    critic, length = 3.0, 6
    values = torch.full((1, length), critic, dtype=torch.float64)
    advantages, returns = ppo.gae(torch.zeros_like(values), values, values > 0, gamma=gamma, lam=lam)
    for t in range(length):
        left = length - 1 - t
        on_the_way = (gamma - 1) * critic * sum((gamma * lam) ** k for k in range(left))
        want = on_the_way - critic * (gamma * lam) ** left
        assert float(advantages[0, t]) == pytest.approx(want)
        assert float(returns[0, t]) == pytest.approx(want + critic)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 1.0), (0.8, 0.5)])
def test_gae_in_a_world_with_a_single_reward(gamma: float, lam: float) -> None:
    """A reward of 1 at the end and a critic that says 0: credit fades by γλ a step."""
    length = 5
    rewards = torch.zeros(1, length, dtype=torch.float64)
    rewards[0, -1] = 1
    advantages, returns = ppo.gae(
        rewards, torch.zeros_like(rewards), torch.ones(1, length, dtype=torch.bool), gamma=gamma, lam=lam
    )
    want = torch.tensor([[(gamma * lam) ** (length - 1 - t) for t in range(length)]], dtype=torch.float64)
    assert_close(advantages, want)
    assert_close(returns, want)


def test_a_perfect_critic_leaves_no_advantage_and_lambda_one_ignores_the_critic() -> None:
    rewards_CT = torch.where(MASK_CT, draw(0, C, T), 0.0)
    to_go_CT = torch.where(MASK_CT, rewards_CT.flip(1).cumsum(1).flip(1), 0.0)
    advantages_CT, returns_CT = ppo.gae(rewards_CT, to_go_CT, MASK_CT, gamma=1.0, lam=0.6)
    assert_close(advantages_CT, torch.zeros_like(rewards_CT))
    assert_close(returns_CT, to_go_CT)
    for seed in (1, 2):
        _, returns_CT = ppo.gae(rewards_CT, draw(seed, C, T), MASK_CT, gamma=1.0, lam=1.0)
        assert_close(returns_CT, to_go_CT)


def test_gae_carries_no_gradient() -> None:
    values_CT = draw(0, C, T).requires_grad_()
    advantages_CT, returns_CT = ppo.gae(draw(1, C, T), values_CT, MASK_CT, gamma=1.0, lam=0.95)
    assert not advantages_CT.requires_grad and not returns_CT.requires_grad


def test_whitened_tokens_have_mean_zero_and_unit_variance() -> None:
    x_CT = torch.where(MASK_CT, 4 + 3 * draw(0, C, T), math.nan)
    for shift_mean, mean in ((True, 0.0), (False, float(x_CT[MASK_CT].mean()))):
        whitened_N = ppo.whiten(x_CT, MASK_CT, shift_mean=shift_mean)[MASK_CT]
        assert float(whitened_N.mean()) == pytest.approx(mean, abs=1e-9)
        assert float(whitened_N.var(correction=0)) == pytest.approx(1, abs=1e-6)
    assert (ppo.whiten(x_CT, MASK_CT)[~MASK_CT] == 0).all()


def test_whitening_equal_values_is_finite() -> None:
    assert (ppo.whiten(torch.full((C, T), 2.5), MASK_CT) == 0).all()


# --- the end-of-answer trick and the KL controller ---------------------------------------------------------


def test_missing_end_is_replaced_or_subtracted() -> None:
    scores_C, finished_C = torch.tensor([3.0, -4.0, 0.5]), torch.tensor([False, False, True])
    replaced = ppo.missing_end_penalty(scores_C, finished_C, 1.0)
    assert replaced.tolist() == [-1.0, -1.0, 0.5]
    subtracted = ppo.missing_end_penalty(scores_C, finished_C, 1.0, mode="subtract")
    assert subtracted.tolist() == [2.0, -5.0, 0.5]


def test_missing_end_refuses_a_bonus_and_an_unknown_mode() -> None:
    with pytest.raises(ConfigError, match="at least 0, not -1"):
        ppo.missing_end_penalty(torch.zeros(1), torch.tensor([True]), -1.0)
    with pytest.raises(ConfigError, match=r"'drop'.*replace or subtract"):
        ppo.missing_end_penalty(torch.zeros(1), torch.tensor([True]), 1.0, mode="drop")  # type: ignore[arg-type]


def test_kl_controller_steers_towards_its_target() -> None:
    steer = {"target": 6.0, "n_episodes": 512, "horizon": 10_000}
    assert ppo.update_kl_coef(0.2, 6.0, **steer) == 0.2
    assert ppo.update_kl_coef(0.2, 6.6, **steer) == pytest.approx(0.2 * (1 + 0.1 * 0.0512))
    assert ppo.update_kl_coef(0.2, 600.0, **steer) == pytest.approx(0.2 * (1 + 0.2 * 0.0512))
    assert ppo.update_kl_coef(0.2, -3.0, **steer) == pytest.approx(0.2 * (1 - 0.2 * 0.0512))
    with pytest.raises(ConfigError, match="must be positive"):
        ppo.update_kl_coef(0.2, 1.0, target=0.0, n_episodes=1, horizon=1)


def test_the_target_rises_evenly_and_stays() -> None:
    assert [ppo.ramped_target(6.0, p, 0.5) for p in (0.0, 0.25, 0.5, 0.9)] == [0.0, 3.0, 6.0, 6.0]
    assert ppo.ramped_target(6.0, 0.0, 0.0) == 6.0


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="advantages_CT"):
        ppo.policy_loss(draw(0, C, T), draw(1, C, T), draw(2, C, 1), MASK_CT, clip_range=0.2)
    with pytest.raises(ValueError, match="returns_CT"):
        ppo.value_loss(draw(0, C, T), draw(1, C, T), draw(2, C, 1), MASK_CT, clip_range=0.2)
    with pytest.raises(ValueError, match="scores_C"):
        ppo.shape_rewards(draw(0, 1), draw(1, C, T), draw(2, C, T), MASK_CT, 0.1)
