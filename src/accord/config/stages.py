"""Settings of sft, sample, ask, reward and eval, and of a whole loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from accord.config.base import (
    DEVICE,
    DTYPE,
    MAX_NEW_TOKENS,
    MODEL,
    PROMPTS,
    ROWS,
    SAVE,
    SEED,
    STRICT,
    TOP_P,
    Device,
    Dtype,
    Lora,
    Optim,
    Preset,
    RewardSource,
    Settings,
)


class SftConfig(Preset):
    """Supervised fine-tuning on demonstrations."""

    method = "sft"
    model: str = MODEL
    data: str = Field(description="demonstrations: a file, a folder or a hub name")
    epochs: float = Field(2.0, gt=0, description="passes over the data")
    batch_size: int = Field(8, gt=0, description="demonstrations per step")
    max_length: int = Field(1024, gt=0, description="tokens; longer rows are left out and counted")
    lora: Lora | None = Field(default_factory=Lora, description="null for full fine-tuning")
    optim: Optim = Optim(learning_rate=3e-4, warmup_share=0.1, schedule="cosine")
    save: Literal["merged", "adapter"] = SAVE
    strict: bool = STRICT


class SampleConfig(Settings):
    """Several answers per prompt from a policy."""

    model: str = MODEL
    prompts: str = PROMPTS
    out: Path = Field(description="JSONL file to write")
    k: int = Field(4, gt=0, description="answers per prompt")
    temperature: float = Field(1.0, ge=0, description="0 always takes the likeliest token")
    top_p: float = TOP_P
    max_new_tokens: int = MAX_NEW_TOKENS
    rows: int = ROWS
    seed: int = SEED
    limit: int | None = Field(None, description="read at most this many prompts")
    dtype: Dtype = DTYPE
    device: Device = DEVICE


Aggregate = Literal["none", "majority", "reliability"]
GUIDELINE: str | None = Field(
    None, description="Markdown file: what raters are told; by default the scenario's text, or a general one"
)
AGGREGATE: Aggregate = Field(
    "none", description="one label a pair: the majority's, or by how far each rater can be relied on"
)


class AskConfig(Settings):
    """Put pairs of answers to raters, through the ledger."""

    samples: str = Field(description="JSONL written by `accord sample`")
    ledger: str = Field("ledger.sqlite", description="file (or database URL) that keeps every answer")
    raters: Literal["panel", "me", "people"] = Field(
        "panel", description="simulated raters, you at the terminal, or people through `accord serve`"
    )
    wait: Literal["all"] | Annotated[int, Field(gt=0)] = Field(
        "all", description="with people: go on when so many judgements are there"
    )
    project: str = Field("answers", min_length=1, description="with people: the project they are asked in")
    scenario: str = Field("shop", description="whose rubric the simulated raters follow")
    guideline: str | None = GUIDELINE
    release: str | None = Field(None, description="name of the snapshot made at the end; default: the time")
    panel_size: int = Field(6, gt=0, description="simulated raters")
    overlap: int = Field(1, gt=0, description="raters per pair")
    overlap_share: float = Field(0.25, ge=0, le=1, description="share of pairs that get three raters")
    pairs_per_prompt: int = Field(6, gt=0, description="pairs of one prompt's answers, at most")
    ranking: int | None = Field(
        None, ge=3, le=9, description="with people: ask them to put so many answers in order, not for pairs"
    )
    limit: int | None = Field(None, description="ask at most this many pairs")
    aggregate: Aggregate = AGGREGATE
    out: Path | None = Field(None, description="also write the preferences as JSONL (TRL's format)")
    seed: int = SEED


class RewardConfig(Preset):
    """Fit a reward model on preferences, rankings, scores, labelled steps, or harm (a cost model)."""

    method = "reward"
    model: str = MODEL
    data: str = Field(description="preferences: a file, a folder, a hub name, or LEDGER#RELEASE")
    loss: Literal["bradley-terry", "ordinal", "plackett-luce", "regression", "process", "cost"] = Field(
        "bradley-terry",
        description="for comparisons (ordinal: with strength), rankings, scores, labelled steps, or harm",
    )
    epochs: float = Field(2.0, gt=0, description="passes over the data")
    batch_size: int = Field(8, gt=0, description="prompts per step")
    max_length: int = Field(1024, gt=0, description="tokens; longer rows are left out and counted")
    held_out: float = Field(0.2, ge=0, lt=1, description="share of the prompts kept for the report card")
    aggregate: Aggregate = AGGREGATE
    ties: Literal["half", "rao-kupper"] = Field(
        "half", description="a label of one half, or an outcome of its own"
    )
    tie_threshold: float = Field(
        0.5, gt=0, description="reward difference that looks like a tie (rao-kupper)"
    )
    margin_coef: float = Field(1.0, ge=0, description="times the row's margin, inside the sigmoid")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of labels taken to be slips")
    probe_penalty: float | None = Field(
        0.1, gt=0, description="ridge of the linear probe that the head starts as; null for a random head"
    )
    step_separator: str = Field("\n", min_length=1, description="stands between steps (loss: process)")
    center_rewards_coefficient: float = Field(0.0, ge=0, description="pulls rewards towards 0")
    pooling: Literal["last", "last+mean"] = Field(
        "last", description="what the head reads: the last token's state, or also the mean over the answer"
    )
    depth: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the trunk's layers that are run; the head reads the last of them",
    )
    lora: Lora = Lora(layers=0.5)
    optim: Optim = Optim(learning_rate=3e-4, warmup_share=0.05, schedule="linear")
    strict: bool = STRICT


class EvalConfig(Settings):
    """Compare two policies on held-out prompts."""

    model: str = MODEL
    baseline: str = Field(description="the policy to compare with, for instance the SFT model")
    prompts: str = PROMPTS
    out: Path = Field(description="folder for results")
    reward_model: RewardSource | None = Field(None, description="scores the answers, and picks the best of n")
    best_of: int = Field(
        4, ge=1, description="best of n of the baseline by the reward model; 1 leaves it out"
    )
    scenario: str = Field("shop", description="whose rubric the simulated raters follow")
    raters: int | None = Field(
        None, ge=0, description="fresh simulated raters; default: 5 for a scenario's prompts, 0 for others"
    )
    temperature: float = Field(1.0, ge=0, description="for both policies; 0 always takes the likeliest token")
    max_new_tokens: int = MAX_NEW_TOKENS
    rows: int = ROWS
    seed: int = SEED
    dtype: Dtype = DTYPE
    device: Device = DEVICE


class RunConfig(Settings):
    """A whole loop, as `accord run FILE.yaml` and `accord quickstart` drive it.

    The sections hold the same settings as the commands; what the loop itself decides (models, data,
    output folders, seeds) is filled in by it and must not be set here.
    """

    model: str = Field("smollm2-135m-instruct", description="where SFT starts")
    scenario: str = Field("shop", description="prompts, demonstrations, guideline and simulated raters")
    prompts: str | None = Field(
        None, description="prompts of your own instead: a file, a folder or a hub name"
    )
    heldout_prompts: str | None = Field(
        None, description="those that old and new are compared on; by default a share of the prompts"
    )
    held_out: float = Field(0.2, gt=0, lt=1, description="that share")
    demonstrations: str | None = Field(
        None, description="good answers for SFT; without any, the loop starts from the model as it is"
    )
    guideline: str | None = GUIDELINE
    out: Path = Field(Path("quickstart"), description="folder of the run; an interrupted one is resumed")
    seed: int = SEED
    rounds: int = Field(1, gt=0, description="turns of the loop")
    raters: Literal["panel", "me", "people"] = Field(
        "panel", description="simulated raters, you at the terminal, or people through `accord serve`"
    )
    evaluators: Literal["panel", "people", "none"] | None = Field(
        None,
        description="who compares old and new; default: people if they are raters, else a panel if it can",
    )
    method: Literal["ppo", "grpo", "rloo", "reinforce++", "online-dpo"] = Field(
        "ppo", description="how the policy is improved"
    )
    dtype: Dtype = DTYPE
    device: Device = DEVICE
    sft: dict[str, Any] = Field(default_factory=dict, description="settings of `accord sft`")
    sample: dict[str, Any] = Field(default_factory=dict, description="settings of `accord sample`")
    ask: dict[str, Any] = Field(default_factory=dict, description="settings of `accord ask`")
    reward: dict[str, Any] = Field(default_factory=dict, description="settings of `accord reward`")
    ppo: dict[str, Any] = Field(default_factory=dict, description="settings of `accord ppo`")
    grpo: dict[str, Any] = Field(default_factory=dict, description="settings of `accord grpo`")
    rloo: dict[str, Any] = Field(default_factory=dict, description="settings of `accord rloo`")
    reinforce_plus_plus: dict[str, Any] = Field(
        default_factory=dict, description="settings of `accord reinforce++`"
    )
    online_dpo: dict[str, Any] = Field(default_factory=dict, description="settings of `accord online-dpo`")
    eval: dict[str, Any] = Field(default_factory=dict, description="settings of `accord eval`")
