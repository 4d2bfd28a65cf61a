"""Every setting of every stage: one pydantic model per stage, read from YAML and `--dotted.flags`.

An unknown key is an error that names the file, the line and the nearest known key. Flags override the
file. Names are TRL's where TRL has the setting.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from accord.errors import ConfigError


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


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
    tokens_per_microbatch: int = Field(1024, gt=0, description="bounds memory; cannot change the gradient")


class Stage(Settings):
    """What every stage has."""

    out: Path = Field(description="folder for results; an interrupted run there is resumed")
    seed: int = SEED
    checkpoint_every: int = Field(10, gt=0, description="steps between checkpoints")
    dtype: Dtype = DTYPE


class SftConfig(Stage):
    """Supervised fine-tuning on demonstrations."""

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


class AskConfig(Settings):
    """Put pairs of answers to raters, through the ledger."""

    samples: str = Field(description="JSONL written by `accord sample`")
    ledger: str = Field("ledger.sqlite", description="file (or database URL) that keeps every answer")
    raters: Literal["panel", "me"] = Field("panel", description="simulated raters, or you at the terminal")
    scenario: str = Field("shop", description="whose rubric the simulated raters follow")
    release: str | None = Field(None, description="name of the snapshot made at the end; default: the time")
    panel_size: int = Field(6, gt=0, description="simulated raters")
    overlap: int = Field(1, gt=0, description="raters per pair")
    overlap_share: float = Field(0.25, ge=0, le=1, description="share of pairs that get three raters")
    pairs_per_prompt: int = Field(6, gt=0, description="pairs of one prompt's answers, at most")
    limit: int | None = Field(None, description="ask at most this many pairs")
    out: Path | None = Field(None, description="also write the preferences as JSONL (TRL's format)")
    seed: int = SEED


class RewardConfig(Stage):
    """Fit a Bradley-Terry reward model on preferences."""

    model: str = MODEL
    data: str = Field(description="preferences: a file, a folder, a hub name, or LEDGER#RELEASE")
    epochs: float = Field(2.0, gt=0, description="passes over the data")
    batch_size: int = Field(8, gt=0, description="prompts per step")
    max_length: int = Field(1024, gt=0, description="tokens; longer rows are left out and counted")
    held_out: float = Field(0.2, ge=0, lt=1, description="share of the prompts kept for the report card")
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
    center_rewards_coefficient: float = Field(0.0, ge=0, description="pulls rewards towards 0")
    lora: Lora = Lora(layers=0.5)
    optim: Optim = Optim(learning_rate=3e-4, warmup_share=0.05, schedule="linear")
    strict: bool = STRICT


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


class EvalConfig(Settings):
    """Compare two policies on held-out prompts."""

    model: str = MODEL
    baseline: str = Field(description="the policy to compare with, for instance the SFT model")
    prompts: str = PROMPTS
    out: Path = Field(description="folder for results")
    reward_model: str | None = Field(None, description="scores the answers, and picks the best of n")
    best_of: int = Field(
        4, ge=1, description="best of n of the baseline by the reward model; 1 leaves it out"
    )
    scenario: str = Field("shop", description="whose rubric the simulated raters follow")
    raters: int = Field(5, gt=0, description="fresh simulated raters")
    temperature: float = Field(1.0, ge=0, description="for both policies; 0 always takes the likeliest token")
    max_new_tokens: int = MAX_NEW_TOKENS
    rows: int = ROWS
    seed: int = SEED
    dtype: Dtype = DTYPE


class RunConfig(Settings):
    """A whole loop, as `accord run FILE.yaml` and `accord quickstart` drive it.

    The sections hold the same settings as the commands; what the loop itself decides (models, data,
    output folders, seeds) is filled in by it and must not be set here.
    """

    model: str = Field("smollm2-135m-instruct", description="where SFT starts")
    scenario: str = Field("shop", description="prompts, demonstrations and raters")
    out: Path = Field(Path("quickstart"), description="folder of the run; an interrupted one is resumed")
    seed: int = SEED
    rounds: int = Field(1, gt=0, description="turns of the loop")
    raters: Literal["panel", "me"] = Field("panel", description="simulated raters, or you at the terminal")
    method: Literal["ppo"] = Field("ppo", description="how the policy is improved")
    dtype: Dtype = DTYPE
    sft: dict[str, Any] = Field(default_factory=dict, description="settings of `accord sft`")
    sample: dict[str, Any] = Field(default_factory=dict, description="settings of `accord sample`")
    ask: dict[str, Any] = Field(default_factory=dict, description="settings of `accord ask`")
    reward: dict[str, Any] = Field(default_factory=dict, description="settings of `accord reward`")
    ppo: dict[str, Any] = Field(default_factory=dict, description="settings of `accord ppo`")
    eval: dict[str, Any] = Field(default_factory=dict, description="settings of `accord eval`")


S = TypeVar("S", bound=BaseModel)


def read_config(schema: type[S], path: Path | None = None, flags: Sequence[str] = ()) -> S:
    """Build `schema` from a YAML file and flags such as `--kl.coef 0.1` or `--strict`.

    Raises ConfigError with the file and line (or the flag) of the first setting that is wrong.
    """
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    if path is not None:
        values, lines = _read_yaml(path)
    flag_values = _parse_flags(flags)
    for dotted, value in flag_values.items():
        _set(values, dotted, value)
    try:
        return schema.model_validate(_over_defaults(schema, values))
    except ValidationError as error:
        raise ConfigError(_explain(error, schema, path, lines, flag_values)) from None


def with_overrides(schema: type[S], section: str, values: Mapping[str, Any], **fixed: Any) -> S:
    """A stage's settings from a section of a run file, with what the loop itself decides put in."""
    clash = sorted(set(values) & set(fixed))
    if clash:
        raise ConfigError(f"{section}.{clash[0]} is decided by the loop and cannot be set; remove it")
    try:
        return schema.model_validate(_over_defaults(schema, {**values, **fixed}))
    except ValidationError as error:
        raise ConfigError(_explain(error, schema, None, {}, {}, prefix=f"{section}.")) from None


def _over_defaults(schema: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with every section that is given in part completed from the schema's own default for it,
    so that `--optim.learning_rate` alone leaves a stage's other optimiser settings as they are."""
    merged = dict(values)
    for name, field in schema.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel) and isinstance(merged.get(name), Mapping):
            merged[name] = {**default.model_dump(), **merged[name]}
    return merged


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give an existing YAML file to --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    try:
        values = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if values is None:
        return {}, {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}:1: expected settings as `key: value` lines, found a {type(values).__name__}"
        )
    lines: dict[str, int] = {}
    _collect_lines(node, "", lines)
    return values, lines


def _collect_lines(node: Any, prefix: str, lines: dict[str, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            dotted = f"{prefix}{key.value}"
            lines[dotted] = key.start_mark.line + 1
            _collect_lines(value, f"{dotted}.", lines)


def _parse_flags(flags: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    rest = list(flags)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--") or flag == "--":
            raise ConfigError(f"unexpected argument {flag!r}; settings are given as --name VALUE")
        name, equals, value = flag[2:].partition("=")
        if not equals:
            value = rest.pop(0) if rest and not _is_flag(rest[0]) else "true"
        found[name.replace("-", "_")] = yaml.safe_load(value) if value else ""
        if isinstance(found[name.replace("-", "_")], str):
            found[name.replace("-", "_")] = _number(value)
    return found


def _is_flag(text: str) -> bool:
    return text.startswith("--") and len(text) > 2


def _number(text: str) -> Any:
    """YAML 1.1 reads 1e-4 as text; people mean a number."""
    try:
        return float(text)
    except ValueError:
        return text


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        nested = values.setdefault(parent, {})
        if not isinstance(nested, dict):
            raise ConfigError(f"--{dotted}: {parent} is a single value, not a section")
        values = nested
    values[last] = value


def _explain(
    error: ValidationError,
    schema: type[BaseModel],
    path: Path | None,
    lines: Mapping[str, int],
    flags: Mapping[str, Any],
    prefix: str = "",
) -> str:
    # An unknown key is the likelier slip when another seems to be missing.
    errors = error.errors()
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    dotted = ".".join(str(part) for part in first["loc"])
    where = f"--{dotted}" if dotted in flags else prefix + dotted
    if path is not None and dotted in lines and dotted not in flags:
        where = f"{path}:{lines[dotted]}: {dotted}"
    if first["type"] == "extra_forbidden":
        known = _known_keys(schema, [str(p) for p in first["loc"][:-1]])
        close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(known))}"
        return f"{where}: unknown setting; {hint}"
    if first["type"] == "missing":
        return f"{prefix}{dotted} is missing; give it as --{dotted} VALUE or in the YAML file"
    return f"{where}: {first['msg'].lower()}, got {first['input']!r}"


def _known_keys(schema: type[BaseModel], parents: Sequence[str]) -> list[str]:
    for parent in parents:
        field = schema.model_fields.get(parent)
        if field is None:
            return []
        options = [field.annotation, *get_args(field.annotation)]
        nested = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not nested:
            return []
        schema = nested[0]
    return list(schema.model_fields)


def describe(schema: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str, str]]:
    """(name, type, default, description) of every setting, nested ones dotted, for `--help`."""
    rows: list[tuple[str, str, str, str]] = []
    for name, field in schema.model_fields.items():
        options = [field.annotation, *get_args(field.annotation)]
        nested = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if nested:
            default = field.get_default(call_default_factory=True)
            rows += [
                (n, t, str(getattr(default, n.rsplit(".", 1)[-1], d)) if default is not None else d, text)
                for n, t, d, text in describe(nested[0], f"{prefix}{name}.")
            ]
            continue
        required = field.is_required()
        default_text = "required" if required else str(field.get_default(call_default_factory=True))
        kind = getattr(field.annotation, "__name__", str(field.annotation))
        if get_origin(field.annotation) is Literal:
            kind = " | ".join(map(str, get_args(field.annotation)))
        rows.append((prefix + name, kind, default_text, field.description or ""))
    return rows
