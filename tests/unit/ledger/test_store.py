"""Prompts, completions, policies and guidelines go in and come out unchanged."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.errors import LedgerError
from accord.ledger import Ledger
from accord.records import Completion, Group, Message, Prompt, Question, Sampling

numbers = st.floats(allow_nan=False) | st.integers(-5, 5)
samplings = st.builds(Sampling, temperature=numbers, top_p=numbers, seed=st.integers(0, 2**63))
answers = st.fixed_dictionaries(
    {
        "text": st.text(),
        "token_ids": st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple),
        "logps": st.lists(st.floats(allow_nan=False), max_size=5).map(tuple),
        "policy_version": st.sampled_from(["", "p0"]),
        "sampling": st.none() | samplings,
        "finish_reason": st.sampled_from(["stop", "length"]),
    }
)
messages = st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool"]), st.text())


def test_a_stored_pair_is_read_back_exactly(tmp_path: Path) -> None:
    fresh = count()
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_policy("p0", base_model="tiny")

        @settings(max_examples=60, deadline=None)
        @given(st.lists(messages, max_size=4), st.text(), st.lists(st.text(), max_size=3), answers, answers)
        def holds(turns: list[Message], source: str, tags: list[str], first: dict, second: dict) -> None:
            prompt = Prompt((*turns, Message("user", f"{next(fresh)}")), source, tuple(tags))
            group = Group(prompt, (Completion(prompt.id, **first), Completion(prompt.id, **second, index=1)))
            (item_id,) = ledger.ask([Question(group, "random")])
            assert ledger.group(item_id) == group
            assert repr(ledger.group(item_id)) == repr(group)  # tells 1 from 1.0, and 0.0 from -0.0
            assert ledger.completion(group.completions[0].id) == group.completions[0]
            assert ledger.prompt(prompt.id) == prompt

        holds()
        assert ledger.verify().problems == ()


def test_storing_again_changes_nothing(ledger: Ledger, pairs) -> None:
    groups = [question.group for question in pairs(3)]
    ledger.add_groups(groups)
    before = ledger.counts()
    ledger.add_groups(groups + groups)
    assert ledger.counts() == before
    assert (before["prompts"], before["completions"], before["items"]) == (3, 6, 0)


def test_an_unknown_policy_stores_nothing(ledger: Ledger) -> None:
    prompt = Prompt.of("hello")
    group = Group(prompt, (Completion(prompt.id, "hi", policy_version="ghost"),))
    with pytest.raises(LedgerError, match="policy versions not in the ledger: ghost; add_policy"):
        ledger.add_groups([Group.of(Prompt.of("another"), "a"), group])
    assert ledger.counts()["prompts"] == 0


def test_a_completion_of_another_prompt_is_refused(ledger: Ledger) -> None:
    group = Group(Prompt.of("hello"), (Completion(Prompt.of("bye").id, "hi"),))
    with pytest.raises(LedgerError, match="stands in a group of prompt"):
        ledger.add_groups([group])


def test_a_lone_surrogate_is_named(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match=r"'half \\ud800 emoji' holds a lone surrogate"):
        ledger.add_groups([Group.of(Prompt.of("hello"), "half \ud800 emoji")])
    assert ledger.counts()["prompts"] == 0


def test_policies_are_idempotent_immutable_and_need_their_parent(ledger: Ledger) -> None:
    config = {"lr": 1e-4, "layers": [1, 2]}
    for _ in range(2):
        assert ledger.add_policy("p1", base_model="tiny", parent="p0", step=3, config=config) == "p1"
    assert ledger.counts()["policies"] == 2
    with pytest.raises(
        LedgerError, match=r"'p1' is recorded with another step; .* give this policy a new one"
    ):
        ledger.add_policy("p1", base_model="tiny", parent="p0", step=4, config=config)
    with pytest.raises(LedgerError, match="not in the ledger: ghost"):
        ledger.add_policy("p2", base_model="tiny", parent="ghost")
    with pytest.raises(LedgerError, match=r"'p3'.*not plain JSON"):
        ledger.add_policy("p3", base_model="tiny", config={"set": {1}})


def test_guidelines_are_addressed_by_their_text(ledger: Ledger) -> None:
    first = ledger.add_guideline("Be kind.")
    assert ledger.add_guideline("Be kind.") == first != ledger.add_guideline("Be kind!")
    assert ledger.counts()["guidelines"] == 2


def test_unknown_ids_are_errors(ledger: Ledger) -> None:
    for read in (ledger.group, ledger.completion, ledger.prompt):
        with pytest.raises(LedgerError, match="'nowhere' is not in the ledger"):
            read("nowhere")
