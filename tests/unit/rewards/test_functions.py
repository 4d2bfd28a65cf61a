"""Functions of the user's: what they are called with, what they may return, and what their errors say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from accord.errors import ConfigError, DataError
from accord.records import Completion, Group, Message, Prompt
from accord.rewards.functions import FunctionReward, columns_of, load_function
from unit.rewards.few import batch_of

FIRST = Prompt((Message("system", "s"), Message("user", "1+1?")), "sums", ("answer=2", "easy"))
SECOND = Prompt.of("Tell a joke")
GROUPS = [
    Group(FIRST, (Completion(FIRST.id, "2", (5, 6), finish_reason="length"), Completion(FIRST.id, "3"))),
    Group.of(SECOND, "Ha."),
]


def scores(function, groups=GROUPS) -> list[float]:
    return FunctionReward(function, "mine.py:f")(groups, batch_of(groups)).scores_C.tolist()


def test_columns_are_trls() -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "1+1?"}]
    assert columns_of(GROUPS) == {
        "prompts": [turns, turns, [{"role": "user", "content": "Tell a joke"}]],
        "completions": [[{"role": "assistant", "content": t}] for t in ("2", "3", "Ha.")],
        "completion_ids": [[5, 6], [], []],
        "finish_reason": ["length", "stop", "stop"],
        "source": ["sums", "sums", ""],
        "tags": [["answer=2", "easy"], ["answer=2", "easy"], []],
        "answer": ["2", "2", None],
    }


def test_a_tag_cannot_replace_a_column_of_accords() -> None:
    groups = [Group.of(Prompt.of("a", tags=("prompts=b", "x=1=2")), "c")]
    assert columns_of(groups)["prompts"] == [[{"role": "user", "content": "a"}]]
    assert columns_of(groups)["x"] == ["1=2"]


def test_a_function_gets_what_it_names() -> None:
    def right(completions, answer):
        return [float(c[0]["content"] == a) for c, a in zip(completions, answer, strict=True)]

    def everything(prompts, completions, **columns):
        return [len(columns)] * len(prompts)

    def optional(completions, nothing=None):
        return [0.5 if nothing is None else 1.0 for _ in completions]

    assert scores(right) == [1, 0, 0]
    assert scores(everything) == [5, 5, 5]
    assert scores(optional) == [0.5] * 3


def test_none_is_no_opinion() -> None:
    def only_sums(completions, answer):
        return [None if a is None else 1 for a in answer]

    got = scores(only_sums)
    assert got[:2] == [1, 1] and math.isnan(got[2])


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ([1.0, 2.0], "mine.py:f returned 2 rewards for 3 completions"),
        (1.0, "mine.py:f must return a list of numbers, not float"),
        ("abc", "must return a list of numbers, not str"),
        ([1.0, math.nan, 0.0], "returned nan on row 1 .*completion '3'.*finite number or None"),
        ([1.0, 0.0, math.inf], f"returned inf on row 2 .prompt {SECOND.id}"),
        ([[1.0], 0.0, 0.0], "on row 0 "),
        (["1", 0.0, 0.0], "returned '1' on row 0 "),
    ],
)
def test_what_comes_back_is_checked(returned, words: str) -> None:
    with pytest.raises(DataError, match=words):
        scores(lambda **columns: returned)


def test_a_failure_names_function_row_and_line() -> None:
    def picky(completions, **columns):
        return [1 / (c[0]["content"] != "3") for c in completions]

    line = picky.__code__.co_firstlineno + 1
    with pytest.raises(
        DataError, match=rf"mine.py:f failed on row 1 .*'3'.*, line {line}: ZeroDivisionError"
    ):
        scores(picky)

    def all_together(completions, **columns):
        return [1 / (len(completions) - 3)] * len(completions)

    with pytest.raises(DataError, match=r"mine.py:f failed, line \d+: ZeroDivisionError"):
        scores(all_together)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match=r"mine.py:f asks for solution, but there is only prompts, .*answer"):
        scores(lambda completions, solution: [0.0] * len(completions))


# --- loading -----------------------------------------------------------------------------------------------


def test_a_function_is_loaded_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "rules.py"
    path.write_text("def brief(completions, **_):\n    return [-len(c[0]['content']) for c in completions]\n")
    reward = load_function(f"{path}:brief")
    assert reward.name == f"{path}:brief"
    assert reward(GROUPS, batch_of(GROUPS)).scores_C.tolist() == [-1, -1, -3]


@pytest.mark.parametrize(
    ("source", "name", "words"),
    [
        ("", "rules.py", "does not name a reward function: write path/to/file.py:function"),
        ("", "rules.txt:f", "does not name a reward function"),
        ("", "rules.py:not a name", "does not name a reward function"),
        (None, "rules.py:f", "there is no such file, so no reward function f"),
        ("f = 1", "rules.py:f", "has no function f"),
        ("def g(): ...", "rules.py:f", "has no function f"),
        ("import nowhere_at_all", "rules.py:f", "cannot be run .ModuleNotFoundError"),
        ("def f(:", "rules.py:f", "cannot be run .SyntaxError"),
        ("async def f(completions): ...", "rules.py:f", "is asynchronous"),
    ],
)
def test_what_cannot_be_loaded_is_named(tmp_path: Path, source: str | None, name: str, words: str) -> None:
    if source is not None:
        (tmp_path / "rules.py").write_text(source)
    with pytest.raises(ConfigError, match=words):
        load_function(f"{tmp_path}/{name}")
