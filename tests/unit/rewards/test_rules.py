"""Rules: what they pay, at their bounds, and the names of wrong settings."""

from __future__ import annotations

import pytest
import torch

from accord.errors import ConfigError
from accord.records import Completion, Group, Prompt
from accord.rewards.rules import RULES, rule_reward
from unit.rewards.few import batch_of


def said(text: str, **settings) -> Completion:
    return Completion("p", text, **settings)


def score(name: str, text: str, **settings) -> float:
    return rule_reward(name, settings).rule(said(text))


@pytest.mark.parametrize(
    ("words", "want"), [(0, -1), (1, -0.5), (2, 0), (4, 0), (5, -0.5), (6, -1), (60, -1)]
)
def test_length_is_free_within_its_bounds_and_falls_over_the_slack(words: int, want: float) -> None:
    assert score("length", "word " * words, at_least=2, at_most=4, slack=2) == want
    assert score("length", "word " * words, at_least=2, at_most=4) == -float(not 2 <= words <= 4)


def test_length_in_each_unit() -> None:
    completion = said("ab cd", token_ids=(1, 2, 3, 4))
    for unit, count in (("words", 2), ("characters", 5), ("tokens", 4)):
        for at_most, want in ((count, 0), (count - 1, -1)):
            assert rule_reward("length", {"at_most": at_most, "unit": unit}).rule(completion) == want


def test_matches_finds_or_covers() -> None:
    text = "<think>\na\n</think> 42"
    assert score("matches", text, pattern=r"<think>.*</think>") == 1
    assert score("matches", text, pattern=r"<think>.*</think>", whole=True) == 0
    assert score("matches", text, pattern=r"<think>.*</think> \d+", whole=True) == 1
    assert score("matches", text, pattern="<THINK>") == 0


def test_ends() -> None:
    rule = rule_reward("ends").rule
    assert (rule(said("a", finish_reason="stop")), rule(said("a", finish_reason="length"))) == (1, 0)
    assert [score("ends_with", t) for t in ("Yes. \n", "Yes", "", "Why?")] == [1, 0, 0, 1]
    assert score("ends_with", "Yours, A.", endings=["Yours"]) == 0


def test_repetition_is_the_share_of_ngrams_seen_before() -> None:
    assert score("repetition", "a b c d") == 0
    assert score("repetition", "a b c A B C a b c") == -4 / 7  # abc bca cab, then four again
    assert score("repetition", "a a a a", n=1) == -3 / 4
    assert score("repetition", "a b") == score("repetition", "") == 0


def test_a_scorer_keeps_the_order_of_completions() -> None:
    groups = [Group.of(Prompt.of("1"), "a", "a b c"), Group.of(Prompt.of("2"), "a b")]
    got = rule_reward("length", {"at_most": 1, "slack": 4})(groups, batch_of(groups))
    assert got.scores_C.tolist() == [0, -0.5, -0.25]
    assert got.scores_C.dtype == torch.float32 and got.hidden_FD is None


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("lenght", {}, "unknown rule 'lenght': use length, matches"),
        ("length", {}, "rule length: missing a required.* 'at_most'"),
        ("length", {"at_most": 3, "max": 3}, "rule length: got an unexpected keyword argument 'max'"),
        ("length", {"at_most": 3, "at_least": 4}, "at_least .4. must lie between 0 and at_most .3."),
        ("length", {"at_most": 3, "slack": -1}, "slack .-1. must not be negative"),
        ("length", {"at_most": 3, "unit": "lines"}, "unknown length: unit 'lines': use words"),
        ("matches", {"pattern": "("}, "is no regular expression"),
        ("ends_with", {"endings": "."}, "endings must be a list of texts"),
        ("ends_with", {"endings": [""]}, "endings must be a list of texts"),
        ("repetition", {"n": 0}, "n must be at least 1, not 0"),
    ],
)
def test_wrong_settings_are_named(name: str, settings: dict, words: str) -> None:
    assert set(RULES) == {"length", "matches", "ends", "ends_with", "repetition"}
    with pytest.raises(ConfigError, match=words):
        rule_reward(name, settings)
