"""What a loop is about: a ready scenario, or the user's own prompts, demonstrations and guideline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from accord.config import RunConfig
from accord.data.datasets import load_demonstrations, load_prompts
from accord.errors import CheckpointError, ConfigError, DataError
from accord.records import Group, Prompt, content_hash
from accord.scenarios import guideline_for, load_scenario
from accord.stages.common import announce
from accord.stages.sft import demonstrations_of
from accord.training.checkpoint import write_atomically

FILES = ("train_prompts", "heldout_prompts", "demonstrations")


@dataclass(frozen=True)
class Domain:
    """Without demonstrations there is no SFT; without a scenario, no simulated rater."""

    train_prompts: Sequence[Prompt]
    heldout_prompts: Sequence[Prompt]
    demonstrations: Sequence[Group]
    guideline: str


def name_of(config: RunConfig) -> str:
    """The scenario's name, or the file of prompts."""
    return config.scenario if config.prompts is None else Path(config.prompts).name


def evaluators(config: RunConfig) -> str:
    """Who compares old and new: a panel, people, or nobody ("none")."""
    if config.evaluators is not None:
        return config.evaluators
    if config.raters == "people":
        return "people"
    return "panel" if config.prompts is None else "none"


def open_domain(config: RunConfig, console: Console) -> Domain:
    """Read it all. Raises ConfigError for settings that do not go together, and DataError for bad files."""
    check(config)
    scenario = load_scenario(config.scenario)
    if config.prompts is None:
        guideline = guideline_for(config.guideline, scenario, ())
        return Domain(scenario.train_prompts, scenario.heldout_prompts, scenario.demonstrations, guideline)
    loaded = load_prompts(config.prompts)
    announce(loaded, "prompts", console)
    if config.heldout_prompts is None:
        train, heldout = split(distinct(loaded.rows), config.held_out, config.seed)
    else:
        kept = load_prompts(config.heldout_prompts)
        announce(kept, "prompts", console)
        train, heldout = without(distinct(loaded.rows), kept.rows, console), tuple(distinct(kept.rows))
    if not train or not heldout:
        raise DataError(
            f"{config.prompts}: {len(train)} prompts to train on and {len(heldout)} held out; both are "
            "needed, so give more prompts"
        )
    demonstrations: Sequence[Group] = ()
    if config.demonstrations is not None:
        shown = load_demonstrations(config.demonstrations)
        announce(shown, "demonstrations", console)
        demonstrations = shown.rows
    return Domain(train, heldout, demonstrations, guideline_for(config.guideline, scenario, train))


def check(config: RunConfig) -> None:
    """Raises ConfigError unless somebody can judge these prompts."""
    own = [f for f in ("heldout_prompts", "demonstrations") if getattr(config, f) is not None]
    if config.prompts is None and own:
        raise ConfigError(f"{own[0]} belongs to prompts of your own; give prompts, too")
    if config.prompts is None:
        return
    for setting, who in (("raters", config.raters), ("evaluators", config.evaluators)):
        if who == "panel":
            raise ConfigError(
                f"{setting}: panel works for a ready scenario alone, since simulated raters measure answers "
                f"against its facts; for {config.prompts} set {setting} to people"
                + (" or me" if setting == "raters" else " or none")
            )


def distinct(prompts: Sequence[Prompt]) -> list[Prompt]:
    return list({prompt.id: prompt for prompt in prompts}.values())


def split(
    prompts: Sequence[Prompt], share: float, seed: int
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """(to train on, held out): whatever their order, the same; at least one of each, if there are two."""
    drawn = sorted(prompts, key=lambda prompt: content_hash([seed, prompt.id]))
    n = min(max(1, round(share * len(drawn))), len(drawn) - 1)
    held = {prompt.id for prompt in drawn[:n]}
    return tuple(p for p in prompts if p.id not in held), tuple(p for p in prompts if p.id in held)


def without(prompts: Sequence[Prompt], held: Sequence[Prompt], console: Console) -> tuple[Prompt, ...]:
    """The prompts that are not held out, too."""
    ids = {prompt.id for prompt in held}
    kept = tuple(prompt for prompt in prompts if prompt.id not in ids)
    if len(kept) < len(prompts):
        console.print(
            f"[yellow]{len(prompts) - len(kept)} prompts are among the held-out ones, too; none is trained on"
        )
    return kept


def write_domain(domain: Domain, folder: Path, *, begun: bool) -> None:
    """The files that the stages read (TRL's formats). Raises CheckpointError where a run that has `begun` was
    begun with others."""
    rows = {
        "train_prompts": [_row(prompt) for prompt in domain.train_prompts],
        "heldout_prompts": [_row(prompt) for prompt in domain.heldout_prompts],
        "demonstrations": demonstrations_of(list(domain.demonstrations)),
    }
    for name in FILES:
        path = folder / f"{name}.jsonl"
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[name])
        if begun and path.exists() and path.read_text(encoding="utf-8") != text:
            raise CheckpointError(
                f"{path}: the {name.replace('_', ' ')} are not those that this run began with; bring them "
                "back, or give another --out"
            )
        write_atomically(path, text)


def counts(folder: Path) -> dict[str, int]:
    """How many rows each of the written files has."""
    paths = {name: folder / f"{name}.jsonl" for name in FILES}
    return {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in paths.items()}


def _row(prompt: Prompt) -> dict[str, Any]:
    return {"prompt": [asdict(m) for m in prompt.messages]}
