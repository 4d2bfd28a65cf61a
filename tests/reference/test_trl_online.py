"""On-policy methods from the scores to the loss: TRL's own code and ours on the same log-probabilities.

The same losses and the same gradients; where they differ, a test says on what purpose. TRL 1.16 has no PPO
and no XPO any more: those are compared with the oracles alone.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from accord.objectives.credit import to_tokens
from accord.objectives.grpo import grpo_advantages, grpo_loss, loss_count
from accord.objectives.importance import importance_weights
from accord.objectives.online_dpo import better_and_worse, online_dpo_loss
from accord.objectives.ppo import missing_end_penalty
from accord.objectives.reinforce import rloo_advantages, sequence_loss
from reference.trl_trainers import (
    LONGEST,
    GRPOTrainer,
    OnlineDPOTrainer,
    RLOOTrainer,
    assert_differs_from_trl,
    assert_equals_trl,
    bare,
    known,
    planted,
)

FAST = settings(max_examples=40, deadline=None)
SEED = st.integers(0, 2**31 - 1)
BETA = st.floats(0.05, 1)
CLIP = st.floats(0.05, 0.4)
ROUNDING = 2e-8  # of TRL's advantages, which are float32: 8e-9 at most in 1,500 draws
END = 2  # the token that ends a turn


class Rollout:
    """C completions, k to a prompt: scores, and log-probs of policies old and new, reference and sampler."""

    def __init__(self, seed: int, groups: int, k: int, moved: float = 0.3) -> None:
        draw = torch.Generator().manual_seed(seed)
        count = groups * k
        self.k, self.group_C = k, torch.arange(groups).repeat_interleave(k)
        self.lengths = torch.randint(1, LONGEST + 1, (count,), generator=draw).tolist()
        self.lengths[0] = LONGEST  # TRL pads to the longest, and the planted numbers have that many columns
        self.mask_CT = torch.arange(LONGEST) < torch.tensor(self.lengths)[:, None]
        values = torch.randn(4, count, LONGEST, generator=draw, dtype=torch.float64)
        self.old_CT = -2 + 0.5 * values[0]
        self.logps_CT = (self.old_CT + moved * values[1]).requires_grad_()
        self.ref_CT = self.old_CT + 0.5 * values[2]
        self.sampler_CT = (self.old_CT + 0.2 * values[3]).float().double()  # TRL keeps them in float32
        self.scores_C = torch.randn(count, generator=draw, dtype=torch.float64)
        self.finished_C = torch.rand(count, generator=draw) < 0.5

    def ids(self) -> list[list[int]]:
        ended = zip(self.lengths, self.finished_C.tolist(), strict=True)
        return [[1] * (n - 1) + [END if finished else 1] for n, finished in ended]

    def trainer(self, kind: type, arguments: dict[str, Any], **own: Any) -> Any:
        """With everything that `_generate_and_score_completions` and `_compute_loss` want."""
        made = bare(
            kind,
            model=planted(self.old_CT),
            ref_model=planted(self.ref_CT),
            _tokenizer=SimpleNamespace(pad_token_id=0),
            pad_to_multiple_of=None,
            mask_truncated_completions=False,
            num_generations=self.k,
            num_iterations=2,  # so that the old log-probs are computed, and not taken from the new
            reward_weights=torch.ones(1),
            reward_func_names=["score"],
            _logs=defaultdict(list, rewards=defaultdict(list), extra=defaultdict(list)),
            _pending_extra_logs={},
            _pending_metrics={},
            _calculate_rewards=lambda *_: self.scores_C[:, None],
            _get_per_token_logps_and_entropies=known,
            current_gradient_accumulation_steps=1,
            **own,
        )
        made.args = SimpleNamespace(
            per_device_train_batch_size=len(self.lengths),
            gradient_checkpointing_kwargs=None,
            steps_per_generation=1,
            gradient_accumulation_steps=1,
            **arguments,
        )
        return made

    def trls_loss(self, trainer: Any) -> Tensor:
        """From the scores to the loss by TRL's own code."""
        made = trainer._generate_and_score_completions([{"prompt": "p"} for _ in self.lengths])
        return trainer._compute_loss(planted(self.logps_CT), made)


def trls_grpo(
    rollout: Rollout,
    *,
    loss_type: str,
    level: str,
    scale: str,
    clip: tuple[float, float],
    beta: float,
    corrected: bool = False,
    importance: str | None = None,
) -> Tensor:
    ids = rollout.ids()
    sampled = [row[:n].tolist() for row, n in zip(rollout.sampler_CT, rollout.lengths, strict=True)]
    trainer = rollout.trainer(
        GRPOTrainer,
        {"use_bias_correction_kl": corrected, "delta": None},
        _generate=lambda prompts: ([[1]] * len(ids), ids, None, ids, sampled, {}, None, None),
        environment_factories=None,
        environments=None,
        tools=None,
        multi_objective_aggregation="sum_then_normalize",
        scale_rewards=scale,
        use_vllm=importance is not None,
        vllm_importance_sampling_correction=importance is not None,
        vllm_importance_sampling_mode=f"{importance}_truncate",
        vllm_importance_sampling_clip_min=None,
        vllm_importance_sampling_clip_max=1.2,
        beta=beta,
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon_low=clip[0],
        epsilon_high=clip[1],
        max_completion_length=50,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        _entropy_bonus_enabled=False,
    )
    return rollout.trls_loss(trainer)


def our_grpo(
    r: Rollout,
    *,
    loss_type: str,
    level: str,
    scale: str,
    clip: tuple[float, float],
    beta: float,
    corrected: bool = False,
    importance: str | None = None,
) -> Tensor:
    advantages_CT = to_tokens(grpo_advantages(r.scores_C, r.group_C, scale=scale), r.mask_CT)
    if importance:
        advantages_CT = advantages_CT * importance_weights(
            r.old_CT, r.sampler_CT, r.mask_CT, cap=1.2, level=importance
        )
    ours = {"bnpo": "dapo"}.get(loss_type, loss_type)
    terms = grpo_loss(
        r.logps_CT,
        old_logps_CT=r.old_CT,
        ref_logps_CT=r.ref_CT,
        advantages_CT=advantages_CT,
        mask_CT=r.mask_CT,
        clip_low=clip[0],
        clip_high=clip[1],
        level=level,
        loss_type=ours,
        kl_coef=beta,
        kl_estimator="k3_corrected" if corrected else "k3",
    )
    return terms.loss / loss_count(r.lengths, ours, max_length=50)


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("level", ["token", "sequence"])
@given(
    seed=SEED,
    scale=st.sampled_from(["group", "batch", "none"]),
    clip=st.tuples(CLIP, CLIP),
    beta=st.sampled_from([0.0, 0.04, 0.5]),
    importance=st.sampled_from([None, "token", "sequence"]),
    k=st.integers(2, 4),
)
@FAST
def test_grpo_and_its_relatives(loss_type: str, level: str, seed: int, k: int, **own: Any) -> None:
    """From scores to the loss: GRPO, Dr. GRPO, DAPO (clip-higher), GSPO; with k3 and importance weights."""
    rollout = Rollout(seed, 3, k)
    ours = our_grpo(rollout, loss_type=loss_type, level=level, **own)
    theirs = trls_grpo(rollout, loss_type=loss_type, level=level, **own)
    assert_equals_trl(ours, theirs, rollout.logps_CT, near=ROUNDING)


PLAIN: dict[str, Any] = {"loss_type": "grpo", "scale": "group", "clip": (0.2, 0.2), "beta": 0.5}


@given(seed=SEED)
@FAST
def test_the_corrected_kl(seed: int) -> None:
    rollout, own = Rollout(seed, 2, 3), {**PLAIN, "level": "token", "corrected": True}
    assert_equals_trl(our_grpo(rollout, **own), trls_grpo(rollout, **own), rollout.logps_CT, near=ROUNDING)


def test_the_corrected_kl_is_of_tokens_where_trls_follows_the_level() -> None:
    """Deliberate: a token's KL estimate is unbiased under its own ratio, not under GSPO's mean of them."""
    rollout, own = Rollout(1, 2, 3), {**PLAIN, "level": "sequence", "corrected": True}
    assert_differs_from_trl(our_grpo(rollout, **own), trls_grpo(rollout, **own))


@given(seed=SEED, k=st.integers(2, 4), beta=st.sampled_from([0.0, 0.05, 0.5]), clip=CLIP)
@FAST
def test_rloo(seed: int, k: int, beta: float, clip: float) -> None:
    rollout = Rollout(seed, 3, k, moved=0.1)
    ids = rollout.ids()
    trainer = rollout.trainer(
        RLOOTrainer,
        {},
        _generate=lambda prompts: ([[1]] * len(ids), ids, ids),
        reward_clip_range=None,
        normalize_advantages=False,
        beta=beta,
        epsilon_low=clip,
        epsilon_high=clip,
    )
    advantages_C = rloo_advantages(
        rollout.scores_C, rollout.old_CT, rollout.ref_CT, rollout.mask_CT, rollout.group_C, kl_coef=beta
    )
    terms = sequence_loss(rollout.logps_CT, rollout.old_CT, advantages_C, rollout.mask_CT, clip_range=clip)
    assert_equals_trl(terms.loss / (3 * k), rollout.trls_loss(trainer), rollout.logps_CT, near=ROUNDING)


def online_dpo(rollout: Rollout, beta: float, penalty: float) -> tuple[Tensor, Tensor]:
    """(ours, TRL's), of pairs: completion i against completion i + P."""
    count = len(rollout.lengths) // 2
    losses = []
    trainer = bare(
        OnlineDPOTrainer,
        _beta=beta,
        model=planted(rollout.logps_CT),
        ref_model=planted(rollout.ref_CT),
        args=SimpleNamespace(
            use_vllm=False,
            missing_eos_penalty=penalty,
            loss_type="sigmoid",
            torch_empty_cache_steps=None,
            optim="adamw_torch",
            n_gpu=1,
            gradient_accumulation_steps=1,
        ),
        eos_token_ids=[END],
        processing_class=SimpleNamespace(batch_decode=lambda ids, **_: [""] * len(ids)),
        reward_funcs=["score"],
        stats=defaultdict(list),
        _calculate_rewards_from_functions=lambda **_: rollout.scores_C.clone(),
        _forward=lambda model, *_: model.logps,
        _generate=lambda *_: (None, None, padded(rollout.ids()), rollout.mask_CT.long(), None),
    )
    trainer.accelerator.backward = losses.append
    trainer.training_step(trainer.model, {"prompt": ["p"] * count})

    scores_C = missing_end_penalty(rollout.scores_C, rollout.finished_C, penalty, mode="subtract")
    pairs = better_and_worse(scores_C, torch.arange(count), torch.arange(count) + count)
    ours = online_dpo_loss(rollout.logps_CT, rollout.ref_CT, rollout.mask_CT, pairs, beta=beta)
    return ours.loss / count, losses[0]


def padded(ids: list[list[int]]) -> Tensor:
    return torch.tensor([row + [0] * (LONGEST - len(row)) for row in ids])


@given(seed=SEED, pairs=st.integers(1, 4), beta=BETA, penalty=st.sampled_from([0.0, 1.5]))
@FAST
def test_online_dpo(seed: int, pairs: int, beta: float, penalty: float) -> None:
    rollout = Rollout(seed, pairs, 2)
    assert_equals_trl(*online_dpo(rollout, beta, penalty), rollout.logps_CT)


def test_equal_scores_make_no_pair_where_trl_prefers_the_first() -> None:
    """Deliberate: a tie says nothing of which answer is better. The other pair counts the same in both."""
    rollout = Rollout(2, 2, 2)
    rollout.scores_C = torch.tensor([1.0, 2.0, 1.0, 0.0], dtype=torch.float64)  # completions 0 and 2 are tied
    ours, theirs = online_dpo(rollout, 0.3, 0.0)
    assert_differs_from_trl(ours, theirs)
    slopes = [torch.autograd.grad(x, rollout.logps_CT)[0] for x in (ours, theirs)]
    torch.testing.assert_close(slopes[0][[1, 3]], slopes[1][[1, 3]])
    assert float(slopes[0][[0, 2]].abs().max()) == 0 < float(slopes[1][[0, 2]].abs().max())
