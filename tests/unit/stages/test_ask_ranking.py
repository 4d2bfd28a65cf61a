"""`accord ask --raters people` may ask for rankings."""

from __future__ import annotations

import pytest

from accord.config import AskConfig
from accord.errors import ConfigError, DataError
from accord.records import Group, Prompt
from accord.stages.ask import questions

GROUPS = [Group.of(Prompt.of(str(n)), *"abcd", "a", " ") for n in range(20)]


def config(**changes: object) -> AskConfig:
    return AskConfig.model_validate({"samples": "", "raters": "people", "overlap_share": 0.0, **changes})


def test_each_prompt_gives_one_ranking_of_different_answers() -> None:
    found = questions(GROUPS, config(ranking=3, overlap=2))
    assert [(q.kind, q.overlap, q.reason) for q in found] == [
        ("ranking", 2, "random ranking of the policy's answers")
    ] * 20
    texts = [frozenset(c.text for c in q.group.completions) for q in found]
    assert {len(some) for some in texts} == {3} and len(set(texts)) == 4, "any three of the four"
    assert questions(GROUPS, config(ranking=3)) == questions(GROUPS, config(ranking=3))


def test_too_few_answers_and_raters_who_cannot_rank_are_refused() -> None:
    with pytest.raises(DataError, match="no prompt has 5 different answers to put in order"):
        questions(GROUPS, config(ranking=5))
    with pytest.raises(ConfigError, match=r"ask\.ranking is for people"):
        questions(GROUPS, config(ranking=3, raters="panel"))
