"""Rewards that need no model: simple properties of a completion that a program can check.

Each function here makes a rule, `Completion -> float`, larger is better. `RULES` is the one table of names.
Rules reward a form and not its content, and policies find out: give them small weights beside a reward model
(see `combine`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch

from accord.data.batches import GroupBatch
from accord.errors import ConfigError
from accord.records import Completion, Group
from accord.rewards.scorer import Scores

T = TypeVar("T")
Rule = Callable[[Completion], float]
Unit = Literal["words", "characters", "tokens"]


@dataclass(frozen=True)
class RuleReward:
    """A rule as a scorer."""

    rule: Rule

    def __call__(self, groups: Sequence[Group], batch: GroupBatch) -> Scores:
        scores = [self.rule(completion) for group in groups for completion in group.completions]
        return Scores(torch.tensor(scores, dtype=torch.float32, device=batch.mask_CT.device))


def length(*, at_least: int = 0, at_most: int, slack: int = 0, unit: Unit = "words") -> Rule:
    """0 within the bounds, and down to -1 over the next `slack` units on either side (with 0: at once).

    The upper side is DAPO's soft overlong punishment (Yu et al. 2025, arXiv 2503.14476, eq. 13), whose
    cache is `slack`: `at_most` is where the punishment starts. Tokens count the end-of-turn token, and text
    without token ids has none.
    """
    if not (0 <= at_least <= at_most and slack >= 0):
        raise ConfigError(
            f"length: at_least ({at_least}) must lie between 0 and at_most ({at_most}), and slack ({slack}) "
            "must not be negative"
        )
    measure: Mapping[str, Callable[[Completion], int]] = {
        "words": lambda c: len(c.text.split()),
        "characters": lambda c: len(c.text),
        "tokens": lambda c: len(c.token_ids),
    }
    count = _choose(measure, unit, "length: unit")

    def rule(completion: Completion) -> float:
        outside = max(at_least - count(completion), count(completion) - at_most, 0)
        return -min(outside / slack, 1.0) if slack else -float(outside > 0)

    return rule


def matches(*, pattern: str, whole: bool = False) -> Rule:
    """1 when the regular expression is found in the text (with `whole`: is all of it), else 0.

    A dot also matches a line break, so that `<think>.*</think>` spans lines.
    """
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ConfigError(f"matches: {pattern!r} is no regular expression ({error})") from error
    search = compiled.fullmatch if whole else compiled.search
    return lambda completion: float(search(completion.text) is not None)


def ends() -> Rule:
    """1 when the completion came to its own end, 0 when it was cut off at the length limit."""
    return lambda completion: float(completion.finish_reason == "stop")


def ends_with(*, endings: Sequence[str] = (".", "!", "?")) -> Rule:
    """1 when the text, less white space behind it, ends in one of `endings`, else 0."""
    if isinstance(endings, str) or not endings or not all(endings):
        raise ConfigError(f"ends_with: endings must be a list of texts that are not empty, not {endings!r}")
    return lambda completion: float(completion.text.rstrip().endswith(tuple(endings)))


def repetition(*, n: int = 3) -> Rule:
    """Minus the share of n-grams of words that stood in the text before: 0 without any, towards -1."""
    if n < 1:
        raise ConfigError(f"repetition: n must be at least 1, not {n}")

    def rule(completion: Completion) -> float:
        words = completion.text.lower().split()
        grams = list(zip(*(words[i:] for i in range(n)), strict=False))
        return len(set(grams)) / len(grams) - 1 if grams else 0.0

    return rule


RULES: Mapping[str, Callable[..., Rule]] = {
    "length": length,
    "matches": matches,
    "ends": ends,
    "ends_with": ends_with,
    "repetition": repetition,
}


def rule_reward(name: str, settings: Mapping[str, Any] | None = None) -> RuleReward:
    """The rule of this name with its settings, e.g. ("length", {"at_most": 80}).

    Raises ConfigError for an unknown rule, and for a setting that is unknown, missing or out of range.
    """
    make = _choose(RULES, name, "rule")
    try:
        inspect.signature(make).bind(**(settings or {}))
    except TypeError as error:
        raise ConfigError(f"rule {name}: {error}; it has {inspect.signature(make)}") from error
    return RuleReward(make(**(settings or {})))


def _choose(table: Mapping[str, T], name: str, what: str) -> T:
    if name not in table:
        raise ConfigError(f"unknown {what} {name!r}: use {', '.join(table)}")
    return table[name]
