"""What the settings of all stages share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from accord.config.presets import over_defaults


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


Device = Literal["auto", "cpu", "cuda"]
DEVICE: Device = Field("auto", description="where the models are; auto: on a GPU if there is one")
Dtype = Literal["auto", "float32", "bfloat16", "float64"]
DTYPE: Dtype = Field("auto", description="auto: bfloat16 on a GPU that has it, else float32")
SEED: int = Field(0, description="the same seed, settings and data give the same result")
MODEL: str = Field(description="a folder (Hugging Face or PEFT), a hub id, or smollm2-135m-instruct")
PROMPTS: str = Field(description="prompts: a file, a folder or a hub name")
ROWS: int = Field(64, gt=0, description="answers decoded at once; bounds memory, changes no answer")
MAX_NEW_TOKENS: int = Field(128, gt=0, description="longest answer, in tokens")
TOP_P: float = Field(1.0, gt=0, le=1, description="sample from the likeliest tokens that add up to this")
STRICT: bool = Field(False, description="stop at the first row that cannot be used")
SAVE: Literal["merged", "adapter"] = Field("merged", description="a whole model, or only the PEFT adapter")


class Lora(Settings):
    """Low-rank adapters (Hu et al. 2021). `layers` is the share of the trunk's layers, from the top."""

    r: int = Field(16, gt=0, description="rank")
    alpha: float = Field(32.0, gt=0, description="scale, divided by the rank")
    layers: float = Field(
        1.0, gt=0, le=1.0, description="share of the layers that get an adapter, top ones first"
    )


class Optim(Settings):
    learning_rate: float = Field(gt=0, description="peak of the schedule")
    schedule: Literal["constant", "linear", "cosine"] = Field("linear", description="after the warm-up")
    warmup_share: float = Field(0.0, ge=0, lt=1, description="share of all steps spent warming up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay of the mean gradient")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="decay of its square")
    adam_epsilon: float = Field(1e-8, gt=0, description="keeps the division finite")
    max_grad_norm: float = Field(1.0, gt=0, description="a longer gradient is shortened to this")
    average_share: float = Field(
        0.0, ge=0, le=1, description="share of the steps, the last ones, whose parameters' mean is the result"
    )
    tokens_per_microbatch: int = Field(1024, gt=0, description="bounds memory; cannot change the gradient")


class Stage(Settings):
    """What every stage has."""

    out: Path = Field(description="folder for results; an interrupted run there is resumed")
    seed: int = SEED
    checkpoint_every: int = Field(10, gt=0, description="steps between checkpoints")
    dtype: Dtype = DTYPE
    device: Device = DEVICE


class Preset(Stage):
    """What every stage has for which other systems have defaults. Settings that are given beat them."""

    method: ClassVar[str]  # the command's name

    like: str | None = Field(
        None, description="start from the defaults of trl, openrlhf or n+ instead (docs/presets.md)"
    )

    @model_validator(mode="before")
    @classmethod
    def _over_preset(cls, values: Any) -> Any:
        return over_defaults(cls, values) if isinstance(values, dict) and values.get("like") else values


class Method(Preset):
    """What every method has that improves a policy."""

    reference: str | None = Field(
        None, description="the model that the policy is held to; by default the one it starts from"
    )


class RewardPart(Settings):
    """One part of a reward: a model, `rule:NAME`, `FILE.py:FUNCTION`, or several names, an ensemble."""

    name: str | list[str] = Field(description="what scores")
    weight: float = Field(1.0, description="in the sum of the parts")
    label: str | None = Field(None, description="what its metrics are called; default: from its name")
    settings: dict[str, Any] = Field(default_factory=dict, description="a rule's")
    how: Literal["mean", "min", "std", "variance"] = Field("mean", description="how an ensemble decides")
    coef: float = Field(0.0, ge=0, description="how much its disagreement costs (std, variance)")


RewardSource = str | list[RewardPart]
