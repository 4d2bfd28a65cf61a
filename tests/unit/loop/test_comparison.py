"""The win rate that people give: whose win it is, ties, and pairs that need nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accord.errors import DataError
from accord.loop.comparison import outcome, read_pairs
from accord.records import Judgement


@pytest.fixture
def transcripts(tmp_path: Path) -> Path:
    """Four questions; the last has the same answer twice."""
    rows = [
        {
            "messages": [{"role": "user", "content": f"question {i}"}],
            "before": f"old {i}" if i < 3 else "same",
            "after": f"new {i}" if i < 3 else "same ",
            "policy_before": "sft",
            "policy_after": "ppo",
        }
        for i in range(4)
    ]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    return tmp_path / "t.json"


def judged(pair, strength: int, *, turned: bool = False) -> Judgement:
    """`strength` > 0: the new policy's answer is better. `turned`: it stands in slot 1."""
    ids = tuple(c.id for c in pair.group.completions)
    prompt = pair.group.prompt.id
    if turned:
        ids, strength = ids[::-1], -strength
    return Judgement(prompt, prompt, "ann", "human", prompt, ids, strength, (0, 1), "g", 2.0)


@pytest.mark.parametrize("turned", [False, True])
def test_the_new_policys_wins_are_counted_whichever_slot_it_is_in(transcripts: Path, turned: bool) -> None:
    pairs = read_pairs(transcripts)
    assert [pair.same for pair in pairs] == [False, False, False, True]
    said = [judged(pair, s, turned=turned) for pair, s in zip(pairs, (3, 1, -2), strict=False)]
    found = outcome(pairs, said, seed=0)
    assert found["win_rate_vs_sft"] == pytest.approx((1 + 1 + 0 + 0.5) / 4) and found["n"] == 4
    assert found["low"] < found["win_rate_vs_sft"] < found["high"]


def test_answers_about_something_else_are_refused(transcripts: Path) -> None:
    pairs = read_pairs(transcripts)
    with pytest.raises(DataError, match="other answers than those that were compared"):
        outcome(pairs[1:], [judged(pairs[0], 1)], seed=0)
