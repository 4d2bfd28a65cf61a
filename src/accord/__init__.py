"""Accord: the whole loop of reinforcement learning from human feedback in one tool.

The stages are functions that take their settings by keyword (a section as a dict: `kl={"mode": "adaptive"}`),
check them, run, and return what the command of the same name prints:

    import accord
    fitted = accord.reward(model="smollm2-135m-instruct", data="preferences.jsonl", out="work/reward")

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
import json
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from accord.errors import ConfigError

if TYPE_CHECKING:
    from accord.data.datasets import load_demonstrations, load_preferences, load_prompts, load_unpaired
    from accord.errors import AccordError
    from accord.feedback.agreement import agreement
    from accord.ledger.ledger import Ledger
    from accord.models.load import LoadedModel, load_model
    from accord.records import (
        Completion,
        Group,
        Judgement,
        Message,
        Preference,
        Prompt,
        Question,
        Sampling,
    )

__version__ = "0.1.0"

# stage -> (its settings in accord.config, the module whose `run` it is)
STAGES = {
    "pretrain": ("PretrainConfig", "accord.stages.pretrain"),
    "sft": ("SftConfig", "accord.stages.sft"),
    "sample": ("SampleConfig", "accord.stages.sample"),
    "ask": ("AskConfig", "accord.stages.ask"),
    "reward": ("RewardConfig", "accord.stages.reward"),
    "dpo": ("DpoConfig", "accord.stages.offline"),
    "cdpo": ("CdpoConfig", "accord.stages.offline"),
    "robust-dpo": ("RobustDpoConfig", "accord.stages.offline"),
    "ipo": ("IpoConfig", "accord.stages.offline"),
    "kto": ("KtoConfig", "accord.stages.offline"),
    "orpo": ("OrpoConfig", "accord.stages.offline"),
    "simpo": ("SimpoConfig", "accord.stages.offline"),
    "cpo": ("CpoConfig", "accord.stages.offline"),
    "ppo": ("PpoConfig", "accord.stages.online"),
    "ppo-lagrangian": ("PpoLagrangianConfig", "accord.stages.online"),
    "grpo": ("GrpoConfig", "accord.stages.online"),
    "rloo": ("RlooConfig", "accord.stages.online"),
    "reinforce++": ("ReinforcePlusPlusConfig", "accord.stages.online"),
    "online-dpo": ("OnlineDpoConfig", "accord.stages.online"),
    "xpo": ("XpoConfig", "accord.stages.online"),
    "best-of-n": ("BestOfNConfig", "accord.stages.best_of_n"),
    "eval": ("EvalConfig", "accord.stages.evaluate"),
}

# the stages that `torchrun` may start in several processes: those whose steps all go through the engine
_SHARING = ("pretrain", "sft", "reward", "offline", "online")
PARALLEL = tuple(name for name, (_, module) in STAGES.items() if module.rpartition(".")[2] in _SHARING)

_LAZY = {
    **dict.fromkeys(("Completion", "Group", "Judgement", "Message"), "accord.records"),
    **dict.fromkeys(("Preference", "Prompt", "Question", "Sampling"), "accord.records"),
    **dict.fromkeys(("load_demonstrations", "load_preferences"), "accord.data.datasets"),
    **dict.fromkeys(("load_prompts", "load_unpaired"), "accord.data.datasets"),
    **dict.fromkeys(("LoadedModel", "load_model"), "accord.models.load"),
    "AccordError": "accord.errors",
    "Ledger": "accord.ledger.ledger",
    "agreement": "accord.feedback.agreement",
}

__all__ = [
    "AccordError",
    "Completion",
    "Group",
    "Judgement",
    "Ledger",
    "LoadedModel",
    "Message",
    "Preference",
    "Prompt",
    "Question",
    "Sampling",
    "agreement",
    "ask",
    "best_of_n",
    "cdpo",
    "cpo",
    "dpo",
    "evaluate",
    "grpo",
    "ipo",
    "kto",
    "load_demonstrations",
    "load_model",
    "load_preferences",
    "load_prompts",
    "load_unpaired",
    "online_dpo",
    "orpo",
    "ppo",
    "ppo_lagrangian",
    "pretrain",
    "read_samples",
    "reinforce_plus_plus",
    "reward",
    "rloo",
    "robust_dpo",
    "run",
    "sample",
    "sft",
    "simpo",
    "xpo",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'accord' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def pretrain(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Train on plain text, from a model or from scratch. Settings: `accord.config.PretrainConfig`."""
    return _stage("pretrain", settings, quiet)


def sft(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Fine-tune a model on demonstrations. Settings: `accord.config.SftConfig`."""
    return _stage("sft", settings, quiet)


def sample(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Sample several answers per prompt. Settings: `accord.config.SampleConfig`."""
    return _stage("sample", settings, quiet)


def ask(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Put pairs of answers to raters. Settings: `accord.config.AskConfig`."""
    return _stage("ask", settings, quiet)


def reward(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Fit a reward model and grade it. Settings: `accord.config.RewardConfig`."""
    return _stage("reward", settings, quiet)


def dpo(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Improve a policy from preferences by DPO. Settings: `accord.config.DpoConfig`."""
    return _stage("dpo", settings, quiet)


def cdpo(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """DPO where some labels are wrong, so no pair is sure. Settings: `accord.config.CdpoConfig`."""
    return _stage("cdpo", settings, quiet)


def robust_dpo(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """DPO's loss on true labels, from flipped ones. Settings: `accord.config.RobustDpoConfig`."""
    return _stage("robust-dpo", settings, quiet)


def ipo(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Improve a policy from preferences by IPO. Settings: `accord.config.IpoConfig`."""
    return _stage("ipo", settings, quiet)


def kto(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Improve a policy from answers found good or bad. Settings: `accord.config.KtoConfig`."""
    return _stage("kto", settings, quiet)


def orpo(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Fine-tune and learn preferences at once. Settings: `accord.config.OrpoConfig`."""
    return _stage("orpo", settings, quiet)


def simpo(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Improve a policy by SimPO, without a reference. Settings: `accord.config.SimpoConfig`."""
    return _stage("simpo", settings, quiet)


def cpo(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Improve a policy by CPO, without a reference. Settings: `accord.config.CpoConfig`."""
    return _stage("cpo", settings, quiet)


def ppo(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Improve a policy by PPO. Settings: `accord.config.PpoConfig`."""
    return _stage("ppo", settings, quiet)


def ppo_lagrangian(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Improve a policy by PPO within a limit on cost. Settings: `accord.config.PpoLagrangianConfig`."""
    return _stage("ppo-lagrangian", settings, quiet)


def grpo(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Improve a policy by GRPO, or Dr. GRPO, DAPO or GSPO. Settings: `accord.config.GrpoConfig`."""
    return _stage("grpo", settings, quiet)


def rloo(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Improve a policy by REINFORCE with a leave-one-out baseline. Settings: `accord.config.RlooConfig`."""
    return _stage("rloo", settings, quiet)


def reinforce_plus_plus(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Improve a policy by REINFORCE++. Settings: `accord.config.ReinforcePlusPlusConfig`."""
    return _stage("reinforce++", settings, quiet)


def online_dpo(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Improve a policy by DPO on its own answers. Settings: `accord.config.OnlineDpoConfig`."""
    return _stage("online-dpo", settings, quiet)


def xpo(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Improve a policy by XPO: online DPO that explores. Settings: `accord.config.XpoConfig`."""
    return _stage("xpo", settings, quiet)


def best_of_n(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Keep the best of n answers, or fine-tune on them too. Settings: `accord.config.BestOfNConfig`."""
    return _stage("best-of-n", settings, quiet)


def evaluate(*, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Compare two policies on held-out prompts. Settings: `accord.config.EvalConfig`."""
    return _stage("eval", settings, quiet)


def run(file: str | Path | None = None, *, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Drive the whole loop of a run file (the quickstart's when None) and return its report.json.

    `settings` (`accord.config.RunConfig`) win over the file; a section given here is laid over the file's.
    """
    from accord.config import RunConfig, read_config, with_overrides

    # Imported by name, since the loop stands above modules that import this one for the version.
    path = Path(file or importlib.import_module("accord.loop").quickstart_file())
    values = read_config(RunConfig, path).model_dump(exclude_unset=True)
    for name, value in _plain(settings).items():
        section = isinstance(value, dict) and isinstance(values.get(name), dict)
        values[name] = {**values[name], **value} if section else value
    config = with_overrides(RunConfig, "run", values)
    loop = importlib.import_module("accord.loop.rounds")
    report: Path = loop.run(config, _console(quiet))
    return dict(json.loads(report.with_suffix(".json").read_text(encoding="utf-8")))


def read_samples(path: str | Path) -> list[Group]:
    """The groups that `sample` wrote: each a prompt with its completions."""
    groups: list[Group] = importlib.import_module("accord.data.groups").read_groups(Path(path))
    return groups


def _stage(name: str, settings: dict[str, Any], quiet: bool) -> dict[str, Any]:
    from accord import config

    schema_name, module = STAGES[name]
    checked = config.with_overrides(getattr(config, schema_name), name, _plain(settings))
    with processes(name):
        result: dict[str, Any] = importlib.import_module(module).run(checked, _console(quiet))
    return result


def processes(stage: str) -> AbstractContextManager[None]:
    """Where `torchrun` started several processes, the group of them, for the stages that can share work."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return nullcontext()
    if stage not in PARALLEL:
        known = ", ".join(PARALLEL)
        raise ConfigError(f"{stage} runs in one process: start it without torchrun (which is for {known})")
    from accord.training.distributed import group

    return group()


def is_follower() -> bool:
    """Whether another of the run's processes is the one that speaks."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ.get("RANK", "0") != "0"


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: str(v) if isinstance(v, PurePath) else v for name, v in settings.items()}


def _console(quiet: bool) -> Any:
    from rich.console import Console

    return Console(stderr=True, quiet=quiet or is_follower())
