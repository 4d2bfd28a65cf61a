"""`--like trl | openrlhf | n+`: the defaults of other systems, method by method.

One table from names to values, which a setting that is given explicitly always beats. A preset names only
what has a counterpart here; where a system works otherwise (critics, schedules with a floor, batches per
device), docs/presets.md says so. All three train whole models, so `lora` is null and learning rates are low.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from accord.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """Settings by dotted name, and the files in which that system sets them."""

    source: str
    values: Mapping[str, Any]


TRAINING_ARGUMENTS = {  # transformers' TrainingArguments, from which TRL's settings inherit
    "lora": None,
    "optim.schedule": "linear",
    "optim.warmup_share": 0.0,
    "optim.weight_decay": 0.0,
    "optim.adam_beta1": 0.9,
    "optim.adam_beta2": 0.999,
    "optim.adam_epsilon": 1e-8,
    "optim.max_grad_norm": 1.0,
}
# Of reward models: here they are always adapters, since they share the trunk with the policy.
WITH_ADAPTER = {name: value for name, value in TRAINING_ARGUMENTS.items() if name != "lora"}
TRL_OFFLINE = {**TRAINING_ARGUMENTS, "epochs": 3.0, "optim.learning_rate": 1e-6, "max_length": 1024}
ONE_STEP = {"epochs": 1, "minibatches": 1, "missing_end_penalty": None}  # one update for each sampling
TRL_PAIRS = {
    **TRAINING_ARGUMENTS,
    **ONE_STEP,
    "optim.learning_rate": 5e-7,
    "temperature": 0.9,
    "max_new_tokens": 64,
    "beta": 0.1,
}
OPENRLHF = {
    "lora": None,
    "epochs": 1,
    "optim.schedule": "cosine",  # theirs ends at a tenth of the peak
    "optim.warmup_share": 0.03,
    "optim.weight_decay": 0.0,
    "optim.adam_beta1": 0.9,
    "optim.adam_beta2": 0.95,
    "optim.max_grad_norm": 1.0,
}
OPENRLHF_ONLINE = {
    **OPENRLHF,
    "optim.learning_rate": 1e-6,
    "prompts_per_iteration": 1024,
    "minibatches": 8,  # 1024 answers, 128 a step
    "temperature": 1.0,
    "top_p": 1.0,
    "max_new_tokens": 1024,
    "missing_end_penalty": None,
    "ptx_coef": 0.05,
    "kl.coef": 0.01,
    "kl.mode": "fixed",
    "stop_kl": math.inf,
}
OPENRLHF_DPO = {**OPENRLHF, "optim.learning_rate": 1e-5, "beta": 0.1, "max_length": 512}
N_PLUS = {
    "epochs": 1.0,
    "optim.learning_rate": 3e-6,
    "optim.schedule": "cosine",
    "optim.warmup_share": 0.0,
    "optim.adam_epsilon": 1e-5,
}
PPO_PAPER = {  # what N+ settled on and TRL's PPO took over
    "lora": None,
    "optim.learning_rate": 3e-6,
    "k": 1,
    "temperature": 0.7,
    "max_new_tokens": 53,
    "epochs": 4,
    "minibatches": 1,
    "clip_range": 0.2,
    "value_clip_range": 0.2,
    "vf_coef": 0.1,
    "gamma": 1.0,
    "lam": 0.95,
    "kl.coef": 0.05,
    "kl.mode": "fixed",
    "whiten_rewards": False,
    "stop_kl": math.inf,
}

_TRL = "trl 1.16, trl/trainer/"
_EXPERIMENTAL = "trl 1.16, trl/experimental/"
PRESETS: Mapping[str, Mapping[str, Preset]] = {
    "trl": {
        "ppo": Preset(
            "trl 1.12, trl/experimental/ppo/ppo_config.py",
            {**TRAINING_ARGUMENTS, **PPO_PAPER, "missing_end_penalty": None},
        ),
        "grpo": Preset(
            _TRL + "grpo_config.py",
            {
                **TRAINING_ARGUMENTS,
                **ONE_STEP,
                "optim.learning_rate": 1e-6,
                "k": 8,
                "temperature": 1.0,
                "max_new_tokens": 512,
                "epsilon": 0.2,
                "loss_type": "dapo",
                "scale_rewards": "group",
                "kl.coef": 0.0,
                "kl_estimator": "k3_corrected",
                "stop_kl": math.inf,
            },
        ),
        "rloo": Preset(
            _TRL + "rloo_config.py",
            {
                **TRAINING_ARGUMENTS,
                **ONE_STEP,
                "optim.learning_rate": 1e-6,
                "k": 2,
                "temperature": 1.0,
                "max_new_tokens": 512,
                "clip_range": 0.2,
                "kl.coef": 0.05,
                "kl.mode": "fixed",
                "stop_kl": math.inf,
            },
        ),
        "online-dpo": Preset(_EXPERIMENTAL + "online_dpo/online_dpo_config.py", {**TRL_PAIRS, "k": 2}),
        "xpo": Preset("trl 2026-07, xpo_config.py", {**TRL_PAIRS, "k": 1, "alpha": 1e-5}),
        "dpo": Preset(_TRL + "dpo_config.py", {**TRL_OFFLINE, "beta": 0.1}),
        "robust-dpo": Preset(_TRL + "dpo_config.py", {**TRL_OFFLINE, "beta": 0.1, "label_smoothing": 0.0}),
        "ipo": Preset(_TRL + "dpo_config.py", {**TRL_OFFLINE, "beta": 0.1, "form": "mean"}),
        "kto": Preset(
            _TRL + "kto_config.py",
            {**TRL_OFFLINE, "beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
        ),
        "orpo": Preset(_EXPERIMENTAL + "orpo/orpo_config.py", {**TRL_OFFLINE, "beta": 0.1, "sft_coef": 1.0}),
        "simpo": Preset(  # its simpo adds CPO's fine-tuning unless cpo_alpha is 0
            _EXPERIMENTAL + "cpo/cpo_config.py",
            {**TRL_OFFLINE, "beta": 0.1, "gamma": 0.5, "label_smoothing": 0.0, "sft_coef": 1.0},
        ),
        "cpo": Preset(
            _EXPERIMENTAL + "cpo/cpo_config.py",
            {**TRL_OFFLINE, "beta": 0.1, "label_smoothing": 0.0, "sft_coef": 1.0},
        ),
        "sft": Preset(
            _TRL + "sft_config.py",
            {**TRAINING_ARGUMENTS, "epochs": 3.0, "optim.learning_rate": 2e-5, "max_length": 1024},
        ),
        "reward": Preset(
            _TRL + "reward_config.py",
            {
                **WITH_ADAPTER,
                "epochs": 3.0,
                "optim.learning_rate": 1e-4,
                "max_length": 1024,
                "margin_coef": 1.0,
                "center_rewards_coefficient": 0.0,
                "probe_penalty": None,
            },
        ),
    },
    "openrlhf": {
        "ppo": Preset(
            "openrlhf/cli/train_ppo_ray.py",
            {
                **OPENRLHF_ONLINE,
                "k": 1,
                "clip_range": 0.2,
                "value_clip_range": 0.5,
                "gamma": 1.0,
                "lam": 1.0,
                "whiten_rewards": False,
            },
        ),
        "grpo": Preset(
            "openrlhf/cli/train_ppo_ray.py, --advantage_estimator group_norm",
            {
                **OPENRLHF_ONLINE,
                "epsilon": 0.2,
                "loss_type": "dapo",
                "scale_rewards": "group",
                "use_kl_in_reward": True,
            },
        ),
        "reinforce++": Preset(
            "openrlhf/cli/train_ppo_ray.py, --advantage_estimator reinforce",
            {**OPENRLHF_ONLINE, "k": 1, "clip_range": 0.2, "gamma": 1.0, "baseline": "none"},
        ),
        "dpo": Preset("openrlhf/cli/train_dpo.py", OPENRLHF_DPO),
        "cdpo": Preset("openrlhf/cli/train_dpo.py", {**OPENRLHF_DPO, "label_smoothing": 0.0}),
        "ipo": Preset("openrlhf/cli/train_dpo.py, --ipo", {**OPENRLHF_DPO, "form": "sum"}),
        "reward": Preset(
            "openrlhf/cli/train_rm.py",
            {
                **{name: value for name, value in OPENRLHF.items() if name != "lora"},
                "optim.learning_rate": 9e-6,
                "max_length": 512,
                "margin_coef": 1.0,
                "probe_penalty": None,
            },
        ),
    },
    "n+": {
        "ppo": Preset(
            "summarize_from_feedback_details/ppo.py (Huang et al. 2024)",
            {
                **PPO_PAPER,
                "prompts_per_iteration": 512,
                "missing_end_penalty": 1.0,
                "optim.schedule": "cosine",
                "optim.warmup_share": 0.0,
                "optim.adam_epsilon": 1e-5,
            },
        ),
        "dpo": Preset(
            "summarize_from_feedback_details/dpo.py (Huang et al. 2024)",
            {
                "lora": None,
                "epochs": 1.0,
                "beta": 0.05,
                "optim.learning_rate": 3e-6,
                "optim.schedule": "cosine",
                "optim.warmup_share": 0.0,
                "optim.adam_epsilon": 1e-5,
            },
        ),
        "sft": Preset("summarize_from_feedback_details/sft.py (Huang et al. 2024)", {"lora": None, **N_PLUS}),
        "reward": Preset(
            "summarize_from_feedback_details/reward.py (Huang et al. 2024)", {**N_PLUS, "probe_penalty": None}
        ),
    },
}


def over_defaults(schema: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with every section that is given in part completed from the schema's own default for it,
    so that `--optim.learning_rate` alone leaves a stage's other optimiser settings as they are. Between the
    two come the values of a preset (`like`).
    """
    method = getattr(schema, "method", None)
    merged = dict(values) if method is None else with_preset(method, values)
    for name, field in schema.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel) and isinstance(merged.get(name), Mapping):
            merged[name] = {**default.model_dump(), **merged[name]}
    return merged


def with_preset(method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` over those of the preset that `like` names among them; without one, as they are.

    Raises ConfigError for a preset that is not there, or has nothing for this method.
    """
    like = values.get("like")
    if like is None:
        return dict(values)
    found = dict(values)
    for dotted, value in preset(str(like), method).values.items():
        section, dot, name = dotted.partition(".")
        if not dot:
            found.setdefault(dotted, value)
        elif isinstance(found.setdefault(section, {}), Mapping):  # else the user's own null or mistake
            found[section] = {name: value, **found[section]}
    return found


def preset(like: str, method: str) -> Preset:
    if like not in PRESETS:
        close = difflib.get_close_matches(like.lower(), PRESETS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(PRESETS)}"
        raise ConfigError(f"--like {like}: no such preset; {hint}")
    if method not in PRESETS[like]:
        raise ConfigError(
            f"--like {like} has no defaults for {method}, only for {', '.join(PRESETS[like])}; leave it out"
        )
    return PRESETS[like][method]
