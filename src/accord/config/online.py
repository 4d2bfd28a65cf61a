"""Settings of the methods that sample while they learn: what all share, and a little more for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from accord.config.base import (
    DEVICE,
    DTYPE,
    MAX_NEW_TOKENS,
    MODEL,
    PROMPTS,
    ROWS,
    SAVE,
    SEED,
    TOP_P,
    Device,
    Dtype,
    Lora,
    Method,
    Optim,
    RewardSource,
    Settings,
)

REWARD_MODEL: RewardSource = Field(
    description="`accord reward`'s, a Hugging Face classifier, rule:NAME, FILE.py:FUNCTION, or a list"
)
CLIP_RANGE: float = Field(0.2, gt=0, description="of the probability ratio")
STOP_KL: float = Field(0.1, gt=0, description="end an update early above this approximate KL per token")
VLLM_CAP = 2.0  # what Yao et al. 2025 use
IMPORTANCE_CAP: float | None = Field(
    None,
    ge=1,
    description="weigh tokens by trainer over sampler probability, at most this; null does not (2 where the "
    "sampler is vllm or in bfloat16)",
)
GAMMA: float = Field(1.0, gt=0, le=1, description="discount per token")
GROUP: int = Field(8, ge=2, description="answers per prompt, to be compared with one another")


class KlControl(Settings):
    """The leash: KL(policy || reference) per answer, in nats, as a penalty inside the reward (k1)."""

    coef: float = Field(0.05, ge=0, description="KL coefficient, or its first value when adaptive")
    mode: Literal["fixed", "adaptive"] = Field("fixed", description="adaptive steers to the target")
    target: float = Field(6.0, gt=0, description="nats per answer, when adaptive")
    horizon: int = Field(10_000, gt=0, description="answers, Ziegler et al. 2019")
    clip: float = Field(0.2, gt=0, description="bound on the relative error in one update")
    ramp_share: float = Field(
        0.0, ge=0, le=1, description="share of the iterations in which the target rises from 0"
    )


class OnlineConfig(Method):
    """What every method has that samples, scores and updates in turn."""

    model: str = MODEL
    reward_model: RewardSource = REWARD_MODEL
    prompts: str = PROMPTS
    iterations: int = Field(50, gt=0, description="rounds of sampling and updating")
    prompts_per_iteration: int = Field(8, gt=0, description="prompts answered in one iteration")
    k: int = Field(4, gt=0, description="answers per prompt in one iteration")
    temperature: float = Field(1.0, gt=0, description="for sampling and for all log-probs")
    top_p: float = TOP_P
    max_new_tokens: int = MAX_NEW_TOKENS
    rows: int = ROWS
    sampler: Literal["local", "vllm"] = Field("local", description="what samples: the built-in one, or vLLM")
    sampler_precision: Literal["exact", "bfloat16"] = Field(
        "exact", description="of the built-in sampler's matrix products on a CPU; bfloat16 is faster"
    )
    vllm_server: str | None = Field(None, description="a vLLM server's address; null runs vLLM in here")
    vllm_memory: float = Field(
        0.3, gt=0, le=1, description="vLLM's share of the GPU while it samples in here"
    )
    epochs: int = Field(2, gt=0, description="passes over each iteration's answers")
    minibatches: int = Field(2, gt=0, description="optimiser steps in each pass")
    missing_end_penalty: float | None = Field(
        1.0, ge=0, description="an answer that does not end by itself scores minus this, whatever it says"
    )
    ptx_data: str | None = Field(None, description="demonstrations to keep likely (PPO-ptx); null for none")
    ptx_coef: float = Field(1.0, ge=0, description="weight of their mean log-probability per token")
    ptx_batch_size: int = Field(8, gt=0, description="demonstrations in an optimiser step")
    lora: Lora | None = Field(default_factory=Lora)
    optim: Optim = Optim(learning_rate=1e-4, schedule="linear", adam_epsilon=1e-5)
    save: Literal["merged", "adapter"] = SAVE

    @model_validator(mode="before")
    @classmethod
    def _weigh_mismatch(cls, values: Any) -> Any:
        """vLLM and bfloat16 give other probabilities than the trainer: tokens are weighed unless that is
        switched off."""
        weighs = "importance_sampling_cap" in cls.model_fields
        rounded = {"sampler": "vllm", "sampler_precision": "bfloat16"}.items()
        if isinstance(values, dict) and weighs and any(values.get(name) == value for name, value in rounded):
            return {"importance_sampling_cap": VLLM_CAP, **values}
        return values

    @model_validator(mode="after")
    def _one_rounding(self) -> OnlineConfig:
        if self.sampler == "vllm" and self.sampler_precision != "exact":
            raise ValueError(
                f"sampler_precision {self.sampler_precision} is for the built-in sampler; leave it out with "
                "sampler: vllm, which computes in the model's dtype"
            )
        return self

    @property
    def mismatched(self) -> bool:
        """Whether the sampler rounds otherwise than the trainer, so that its log-probabilities are not the
        trainer's own."""
        return self.sampler == "vllm" or self.sampler_precision != "exact"


class PpoConfig(OnlineConfig):
    """Proximal policy optimisation against a reward model (Schulman 2017; Ouyang 2022; Huang 2024)."""

    method = "ppo"
    clip_range: float = CLIP_RANGE
    value_clip_range: float = Field(0.2, gt=0, description="of the critic's change")
    gamma: float = GAMMA
    lam: float = Field(0.95, ge=0, le=1, description="λ of GAE")
    kl: KlControl = KlControl()
    stop_kl: float = STOP_KL
    importance_sampling_cap: float | None = IMPORTANCE_CAP
    whiten_rewards: bool = Field(False, description="scale each iteration's rewards to variance 1")
    critic: Literal["reward", "reference", "policy"] = Field(
        "reward", description="whose hidden states the value head reads"
    )
    critic_learning_rate: float = Field(1e-3, gt=0, description="for the value head")
    critic_epochs: int = Field(
        4, gt=0, description="passes for a value head on frozen features (they are cheap)"
    )
    vf_coef: float = Field(
        0.1, ge=0, description="weight of the value loss when the critic shares the policy's trunk"
    )
    cost_model: RewardSource | None = Field(
        None, description="what scores harm (PPO-Lagrangian); like reward_model, a higher cost being worse"
    )
    cost_limit: float = Field(0.0, description="the mean cost that must not be exceeded")
    cost_multiplier: float = Field(1.0, gt=0, description="first value of Lagrange's multiplier λ")
    cost_multiplier_rate: float = Field(0.1, gt=0, description="step of ln λ per unit of λ times excess")
    cost_multiplier_max: float = Field(5.0, gt=0, description="λ stays at most this")
    cost_window: int = Field(128, gt=0, description="answers over which the mean cost is taken")


class PpoLagrangianConfig(PpoConfig):
    """PPO under a limit on mean cost, by Lagrange's multiplier: Safe RLHF (Dai 2023)."""

    method = "ppo-lagrangian"
    cost_model: RewardSource = Field(
        description="what scores harm: `accord reward --loss cost`'s, or as reward_model, higher being worse"
    )


class GrpoConfig(OnlineConfig):
    """Group relative policy optimisation (Shao 2024), with the switches of Dr. GRPO, DAPO and GSPO."""

    method = "grpo"
    k: int = GROUP
    epsilon: float = Field(0.2, gt=0, description="how far below 1 the ratio may fall with profit")
    epsilon_high: float | None = Field(
        None, gt=0, description="how far above 1; null for epsilon (DAPO: 0.28)"
    )
    importance_sampling_level: Literal["token", "sequence"] = Field(
        "token", description="sequence: one ratio per answer (GSPO; wants an epsilon near 4e-4)"
    )
    loss_type: Literal["grpo", "dapo", "dr_grpo"] = Field(
        "dapo", description="mean of answers' means, mean of tokens, or a constant length (dr_grpo)"
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group", description="advantages are divided by this deviation of the scores (Dr. GRPO: none)"
    )
    drop_equal_groups: bool = Field(False, description="leave out groups of equal scores (DAPO)")
    resample_rounds: int = Field(
        0, ge=0, description="and sample other prompts in their place, at most so many times (DAPO)"
    )
    overlong_buffer: int = Field(
        0, ge=0, description="tokens before max_new_tokens over which a penalty grows (DAPO); 0 for none"
    )
    overlong_penalty: float = Field(1.0, ge=0, description="taken from the score at max_new_tokens")
    mask_truncated_completions: bool = Field(
        False, description="answers that did not end by themselves do not train"
    )
    kl: KlControl = KlControl(coef=0.04)
    use_kl_in_reward: bool = Field(False, description="take the KL (k1) from the reward, not into the loss")
    kl_estimator: Literal["k2", "k3", "k3_corrected"] = Field(
        "k3_corrected", description="of the KL in the loss; k3 (the paper's) lowers the reverse divergence"
    )
    stop_kl: float = STOP_KL
    importance_sampling_cap: float | None = IMPORTANCE_CAP


class RlooConfig(OnlineConfig):
    """REINFORCE with a leave-one-out baseline, a whole answer being one action (Ahmadian 2024)."""

    method = "rloo"
    k: int = Field(4, ge=2, description="answers per prompt, to be compared with one another")
    epochs: int = Field(1, gt=0, description="passes over each iteration's answers")
    clip_range: float = Field(0.2, gt=0, description="of the probability ratio of a whole answer")
    kl: KlControl = KlControl()
    stop_kl: float = STOP_KL
    importance_sampling_cap: float | None = IMPORTANCE_CAP


class ReinforcePlusPlusConfig(OnlineConfig):
    """REINFORCE++: rewards still to come, whitened over the batch, with PPO's clip (Hu 2025)."""

    method = "reinforce++"
    baseline: Literal["none", "group"] = Field(
        "none", description="group: first compare each score with its siblings' mean"
    )
    clip_range: float = CLIP_RANGE
    gamma: float = GAMMA
    kl: KlControl = KlControl()
    stop_kl: float = STOP_KL
    importance_sampling_cap: float | None = IMPORTANCE_CAP


class OnlineDpoConfig(OnlineConfig):
    """DPO on the policy's own best and worst answers by the reward (Guo 2024; Dong 2024)."""

    method = "online-dpo"
    k: int = Field(4, ge=2, description="answers per prompt; the best and the worst are compared")
    epochs: int = Field(1, gt=0, description="passes over each iteration's pairs")
    beta: float = Field(0.1, gt=0, description="DPO's β: the KL coefficient of what it optimises")


class XpoConfig(OnlineConfig):
    """Online DPO that explores: answers of policy and reference compared, and optimism (Xie 2024)."""

    method = "xpo"
    k: int = Field(2, gt=0, description="answers per prompt of the policy, and as many of the reference")
    epochs: int = Field(1, gt=0, description="passes over each iteration's pairs")
    beta: float = Field(0.1, gt=0, description="DPO's β: the KL coefficient of what it optimises")
    alpha: float = Field(1e-5, ge=0, description="weight of the optimism; 0 leaves it out")


class BestOfNConfig(Settings):
    """Keep the best of n answers by the reward; with `sft`, fine-tune on them (rejection sampling)."""

    model: str = MODEL
    reward_model: RewardSource = REWARD_MODEL
    prompts: str = PROMPTS
    out: Path = Field(description="folder for results")
    n: int = Field(8, ge=2, description="answers per prompt to choose from")
    temperature: float = Field(1.0, gt=0, description="for sampling")
    top_p: float = TOP_P
    max_new_tokens: int = MAX_NEW_TOKENS
    rows: int = ROWS
    missing_end_penalty: float | None = Field(
        1.0, ge=0, description="an answer that does not end by itself scores minus this, whatever it says"
    )
    tokens_per_microbatch: int = Field(2048, gt=0, description="of the reward model's passes")
    limit: int | None = Field(None, gt=0, description="read at most this many prompts")
    sft: dict[str, Any] | None = Field(
        None, description="settings of `accord sft` for a run on the best answers; {} for its defaults"
    )
    seed: int = SEED
    dtype: Dtype = DTYPE
    device: Device = DEVICE
