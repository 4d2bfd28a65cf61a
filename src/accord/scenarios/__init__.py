"""Scenarios: a domain's prompts, demonstrations, guideline and the rubric of its simulated raters."""

from __future__ import annotations

from accord.errors import ConfigError
from accord.scenarios import shop

SCENARIOS = {"shop": shop.load_scenario}


def load_scenario(name: str) -> shop.Scenario:
    """The scenario called `name`. Raises ConfigError with the known names."""
    if name not in SCENARIOS:
        raise ConfigError(f"unknown scenario {name!r}; known: {', '.join(sorted(SCENARIOS))}")
    return SCENARIOS[name]()
