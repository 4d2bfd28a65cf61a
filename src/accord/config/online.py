"""Settings of the methods that sample while they learn."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from accord.config.base import (
    MAX_NEW_TOKENS,
    MODEL,
    PROMPTS,
    ROWS,
    SAVE,
    TOP_P,
    Lora,
    Optim,
    Settings,
    Stage,
)


class KlControl(Settings):
    """The leash: KL(policy || reference) per answer, in nats, as a penalty inside the reward (k1)."""

    coef: float = Field(0.05, ge=0, description="KL coefficient, or its first value when adaptive")
    mode: Literal["fixed", "adaptive"] = Field("fixed", description="adaptive steers to the target")
    target: float = Field(6.0, gt=0, description="nats per answer, when adaptive")
    horizon: int = Field(10_000, gt=0, description="answers, Ziegler et al. 2019")
    clip: float = Field(0.2, gt=0, description="bound on the relative error in one update")


class PpoConfig(Stage):
    """Proximal policy optimisation against a reward model (Schulman 2017; Ouyang 2022; Huang 2024)."""

    model: str = MODEL
    reward_model: str = Field(description="`accord reward`'s, or a Hugging Face classifier with one output")
    prompts: str = PROMPTS
    iterations: int = Field(50, gt=0, description="rounds of sampling and updating")
    prompts_per_iteration: int = Field(8, gt=0, description="prompts answered in one iteration")
    k: int = Field(4, gt=0, description="answers per prompt in one iteration")
    temperature: float = Field(1.0, gt=0, description="for sampling and for all log-probs")
    top_p: float = TOP_P
    max_new_tokens: int = MAX_NEW_TOKENS
    rows: int = ROWS
    epochs: int = Field(2, gt=0, description="passes over each iteration's answers")
    minibatches: int = Field(2, gt=0, description="optimiser steps in each pass")
    clip_range: float = Field(0.2, gt=0, description="of the probability ratio")
    value_clip_range: float = Field(0.2, gt=0, description="of the critic's change")
    gamma: float = Field(1.0, gt=0, le=1, description="discount per token")
    lam: float = Field(0.95, ge=0, le=1, description="λ of GAE")
    kl: KlControl = KlControl()
    stop_kl: float = Field(0.1, gt=0, description="end an update early above this approximate KL per token")
    missing_end_penalty: float | None = Field(
        1.0, ge=0, description="an answer that does not end by itself scores minus this, whatever it says"
    )
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
    lora: Lora | None = Field(default_factory=Lora)
    optim: Optim = Optim(learning_rate=1e-4, schedule="linear", adam_epsilon=1e-5)
    save: Literal["merged", "adapter"] = SAVE
