"""Your own function as a reward, with the signature of TRL's reward functions.

    def brevity(prompts, completions, **columns):
        return [-len(completion[0]["content"]) / 100 for completion in completions]

`prompts` and `completions` are lists of conversations, a prompt repeated for each of its completions; a
completion is one message of the assistant. One number comes back for each, or None where the function has no
opinion. `columns` hold `tags` and `source` of the prompt, `completion_ids` and `finish_reason`, and whatever
tags of the form `name=value` say: a prompt without the tag has None there. A function without `**columns`
gets only those that it names.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from accord.data.batches import GroupBatch
from accord.errors import ConfigError, DataError
from accord.records import Group, Message
from accord.rewards.scorer import Scores

Function = Callable[..., Sequence[float | None]]
_one_at_a_time = threading.Lock()  # micro-batches are scored side by side; users' code need not know


@dataclass(frozen=True)
class FunctionReward:
    """A function as a scorer; no opinion is NaN (`WeightedSum` leaves it out, or says that none is left).

    Raises DataError, naming the function and the first row it concerns, when the function fails, asks for a
    column that is not there, or returns anything but one finite number or None for each completion.
    """

    function: Function
    name: str

    def __call__(self, groups: Sequence[Group], batch: GroupBatch) -> Scores:
        columns = self._accepted(columns_of(groups))
        try:
            with _one_at_a_time:
                rewards = self.function(**columns)
        except Exception as error:
            raise DataError(self._failure(groups, error)) from error
        if isinstance(rewards, str) or not hasattr(rewards, "__len__"):
            raise DataError(f"{self.name} must return a list of numbers, not {type(rewards).__name__}")
        count = len(columns_of(groups)["completions"])
        if len(rewards) != count:
            raise DataError(f"{self.name} returned {len(rewards)} rewards for {count} completions")
        scores = [self._number(row, reward, groups) for row, reward in enumerate(rewards)]
        return Scores(torch.tensor(scores, dtype=torch.float32, device=batch.mask_CT.device))

    def _accepted(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Those columns that the function takes."""
        parameters = inspect.signature(self.function).parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            named = columns
        else:
            named = {p.name: columns[p.name] for p in parameters if p.name in columns}
        missing = [p.name for p in parameters if _needed(p) and p.name not in named]
        if missing:
            raise DataError(
                f"{self.name} asks for {', '.join(missing)}, but there is only {', '.join(columns)}; "
                "other columns come from prompt tags of the form name=value"
            )
        return named

    def _failure(self, groups: Sequence[Group], error: Exception) -> str:
        """What went wrong, in which line, and on which row: found by trying the rows one by one."""
        said, row = error, ""
        for n, single in enumerate(_singles(groups)):
            try:
                self.function(**self._accepted(columns_of([single])))
            except Exception as again:
                said, row = again, f" on {_describe(n, single)}"
                break
        line = traceback.extract_tb(said.__traceback__)[-1].lineno
        return f"{self.name} failed{row}, line {line}: {type(said).__name__}: {said}"

    def _number(self, row: int, reward: Any, groups: Sequence[Group]) -> float:
        if reward is None:
            return math.nan
        try:
            number = float(reward)
        except (TypeError, ValueError):
            number = math.nan
        if isinstance(reward, str) or not math.isfinite(number):
            where = _describe(row, _singles(groups)[row])
            raise DataError(f"{self.name} returned {reward!r} on {where}; a finite number or None is needed")
        return number


def columns_of(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """What a function is called with: one list per column, one entry per completion."""
    pairs = [(group.prompt, completion) for group in groups for completion in group.completions]
    fixed: dict[str, list[Any]] = {
        "prompts": [[_turn(m) for m in prompt.messages] for prompt, _ in pairs],
        "completions": [[_turn(Message("assistant", c.text))] for _, c in pairs],
        "completion_ids": [list(c.token_ids) for _, c in pairs],
        "finish_reason": [c.finish_reason for _, c in pairs],
        "source": [prompt.source for prompt, _ in pairs],
        "tags": [list(prompt.tags) for prompt, _ in pairs],
    }
    tagged = [dict(t.split("=", 1) for t in prompt.tags if "=" in t) for prompt, _ in pairs]
    names = sorted({name for tags in tagged for name in tags} - fixed.keys())
    return {**fixed, **{name: [tags.get(name) for tags in tagged] for name in names}}


def load_function(name: str) -> FunctionReward:
    """`path/to/file.py:function`. The file is run, so name only files that you trust.

    Raises ConfigError when there is no such file or function, the file cannot be run, or the function is
    asynchronous.
    """
    path_text, colon, attribute = name.rpartition(":")
    path = Path(path_text)
    if not (colon and path.suffix == ".py" and attribute.isidentifier()):
        raise ConfigError(f"{name!r} does not name a reward function: write path/to/file.py:function")
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file, so no reward function {attribute}")
    spec = importlib.util.spec_from_file_location(f"reward_function_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path} cannot be run ({type(error).__name__}: {error})") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ConfigError(f"{path} has no function {attribute}")
    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"{name} is asynchronous: write a plain function (it may use asyncio.run inside)")
    return FunctionReward(function, name)


def _needed(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    return not variadic and parameter.default is parameter.empty


def _turn(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}


def _singles(groups: Sequence[Group]) -> list[Group]:
    """Each completion as a group of its own."""
    return [replace(group, completions=(c,)) for group in groups for c in group.completions]


def _describe(row: int, single: Group) -> str:
    return f"row {row} (prompt {single.prompt.id}, completion {single.completions[0].text[:40]!r})"
