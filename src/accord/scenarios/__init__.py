"""Scenarios: a domain's prompts, demonstrations, guideline and the rubric of its simulated raters.

People can judge any domain. Then only the guideline is needed, and there is a general one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from accord.errors import ConfigError, DataError
from accord.records import Prompt
from accord.scenarios import shop

SCENARIOS = {"shop": shop.load_scenario}


def load_scenario(name: str) -> shop.Scenario:
    """The scenario called `name`. Raises ConfigError with the known names."""
    if name not in SCENARIOS:
        raise ConfigError(f"unknown scenario {name!r}; known: {', '.join(sorted(SCENARIOS))}")
    return SCENARIOS[name]()


def known_prompts(scenario: shop.Scenario) -> dict[str, Prompt]:
    """The scenario's own prompts by id, with the tags by which its rubric finds the facts."""
    return {prompt.id: prompt for prompt in (*scenario.train_prompts, *scenario.heldout_prompts)}


def guideline_for(file: str | None, scenario: shop.Scenario, prompts: Iterable[Prompt]) -> str:
    """What raters are told: the Markdown in `file`, else the scenario's text for its own prompts and a
    general one for others. Raises DataError when the file cannot be read or says nothing."""
    if file is None:
        known = known_prompts(scenario)
        if all(prompt.id in known for prompt in prompts):
            return scenario.guideline
        return Path(__file__).with_name("general.md").read_text(encoding="utf-8")
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"guideline {file}: cannot be read ({error}); give a Markdown file") from error
    if not text.strip():
        raise DataError(f"guideline {file}: is empty; write what makes an answer the better one")
    return text
