"""The formats of rows: which columns make which format, and what one row means. Pure functions.

TRL's formats are read unchanged: text or conversations (lists of {role, content}), preferences with an
explicit `prompt` or an implicit one (chosen and rejected share all but the last turn). Transcripts of the
HH-RLHF kind ("\\n\\nHuman: …\\n\\nAssistant: …") are taken apart into conversations first, wherever they
stand, and then follow the same rules.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from accord.records import Message

Values = Mapping[str, Any]
Messages = tuple[Message, ...]
Formats = Mapping[str, tuple[str, ...]]  # name -> the columns that make it

PREFERENCES: Formats = {
    "preference": ("chosen", "rejected"),
    "pandalm": ("instruction", "response1", "response2", "annotator1"),
    "alpacafarm": ("instruction", "output_1", "output_2", "preference"),
    "pku-saferlhf": ("prompt", "response_0", "response_1", "better_response_id"),
}
DEMONSTRATIONS: Formats = {
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "self-instruct": ("instruction", "instances"),
}
UNPAIRED: Formats = {"unpaired": ("prompt", "completion", "label")}
PROMPTS: Formats = {
    "prompt": ("prompt",),
    "preference": ("chosen", "rejected"),
    "messages": ("messages",),
    "instruction": ("instruction",),
}

# What rows of another kind are, by their columns, and which command reads them.
_OTHERS = (
    (("chosen", "rejected"), "preferences, for `accord reward` and `accord dpo`"),
    (("prompt", "completions", "ranking"), "rankings, for `accord reward --loss plackett-luce`"),
    (("prompt", "completions", "scores"), "scores, for `accord reward --loss regression` or plackett-luce"),
    (("prompt", "completion", "score"), "scores, for `accord reward --loss regression`"),
    (("prompt", "completions", "labels"), "labelled steps, for `accord reward --loss process`"),
    (("prompt", "completion", "label"), "single answers, for `accord kto`"),
    (("messages",), "demonstrations, for `accord sft`"),
    (("prompt", "completion"), "demonstrations, for `accord sft`"),
    (("text",), "plain text, for `accord pretrain`"),
)

_ROLES = ("system", "user", "assistant", "tool")
_MARKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


class RowError(ValueError):
    """A row that cannot be used; the message is `Problem.what`."""


def detect(columns: Iterable[str], formats: Formats) -> str:
    """The one format whose columns are all there. An explicit prompt settles what the prompt is.

    Raises:
        RowError: none fits, or several do.
    """
    columns = set(columns)
    if "prompt" in formats and "prompt" in columns:
        return "prompt"
    fitting = [name for name, needed in formats.items() if columns.issuperset(needed)]
    if len(fitting) == 1:
        return fitting[0]
    raise RowError(f"fits several formats ({', '.join(fitting)})" if fitting else "fits no known format")


def what_for(columns: Iterable[str]) -> str:
    """A sentence (and a space) on what rows with these columns are for; nothing where that is unknown."""
    known = set(columns)
    return next((f"These are {what}. " for needed, what in _OTHERS if known.issuperset(needed)), "")


def instances(values: Values, kind: str) -> Iterator[Values]:
    """The row itself, or each instance of a Self-Instruct task as a row of its own."""
    if "instances" not in values or kind not in ("self-instruct", "instruction"):
        yield values
        return
    cases = values["instances"]
    if not isinstance(cases, list) or not cases:
        raise RowError("instances is not a list with something in it")
    for case in cases:
        if not isinstance(case, dict):
            raise RowError("instances holds something without named columns")
        yield {**values, **case}


def preference(values: Values, kind: str) -> tuple[Messages, str, str, bool]:
    """Prompt, chosen answer, rejected answer, and whether it is a tie.

    PandaLM: 1 and 2 name the better response, 0 a tie; the annotators' majority decides, and without a
    majority the row is a tie. AlpacaFarm: 1 and 2 name the better output, 0 a tie. PKU-SafeRLHF: 0 or 1 names
    the more helpful response; its labels of harm are read by `safety.load_safety`.
    """
    _refuse_extras(values)
    if kind == "preference":
        prompt, (chosen, rejected) = _continued(values, "chosen", "rejected")
        tie = values.get("tie")
        if tie is not None and not isinstance(tie, bool):
            raise RowError("tie is not true or false")
        return prompt, *_different(chosen, rejected, "chosen = rejected"), bool(tie)
    if kind == "pku-saferlhf":
        prompt, answers = two_responses(values)
        better = response_id(values, "better_response_id")
        return prompt, answers[better], answers[1 - better], False
    if kind == "pandalm":
        names, verdict = ("response1", "response2"), _majority(values)
    else:
        names, verdict = ("output_1", "output_2"), _verdict(values, "preference")
    prompt = _instruction(values)
    first, second = (_answer(values.get(name), name) for name in names)
    _different(first, second, f"{names[0]} = {names[1]}")
    return prompt, *((second, first) if verdict == 2 else (first, second)), verdict == 0


def two_responses(values: Values) -> tuple[Messages, tuple[str, str]]:
    """The prompt and both answers of a row of PKU-SafeRLHF."""
    first, second = (_answer(values.get(name), name) for name in ("response_0", "response_1"))
    return prompt_part(values, "prompt"), _different(first, second, "response_0 = response_1")


def response_id(values: Values, column: str) -> int:
    """Which of the two responses a column names: 0 or 1."""
    value = values.get(column)
    if isinstance(value, bool) or value not in (0, 1):
        raise RowError(f"{column} is neither 0 nor 1")
    return int(value)


def demonstration(values: Values, kind: str) -> tuple[Messages, str]:
    """Prompt and answer. Of a conversation of several turns, the last turn is the answer."""
    _refuse_extras(values)
    if kind == "messages":
        messages = _conversation(values.get("messages"), "messages", "assistant")
        return _checked_prompt(messages[:-1]), _last_answer(messages, "messages")
    if kind in ("alpaca", "self-instruct"):
        return _instruction(values), _answer(values.get("output"), "output")
    prompt, (completion,) = _continued(values, "completion")
    return prompt, completion


def prompt_part(values: Values, kind: str) -> Messages:
    """Only the prompt of a row; its answers are not looked at more than needed."""
    _refuse_extras(values)
    if kind == "instruction":
        return _instruction(values)
    if kind == "messages":
        messages = _conversation(values.get("messages"), "messages", "user")
        return _checked_prompt(messages[:-1] if messages[-1].role == "assistant" else messages)
    if kind == "preference":
        chosen = _conversation(values.get("chosen"), "chosen", "assistant")
        rejected = _conversation(values.get("rejected"), "rejected", "assistant")
        _last_is_assistant(chosen, "chosen")
        return _checked_prompt(_shared_prompt((chosen, rejected)))
    return _checked_prompt(_prompt_column(values))


def label(values: Values) -> bool:
    """The `label` column as a truth value (0 and 1 are accepted)."""
    value = values.get("label")
    if value is None:
        raise RowError("no label")
    if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise RowError("label is not true or false")


def number(values: Values, column: str, default: float, *, least: float = -math.inf) -> float:
    """An optional finite number."""
    value = values.get(column)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(f"{column} is {_type_name(value)}, not a number")
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise RowError(f"{column} is not a finite number")
    if value < least:
        raise RowError(f"{column} is below {least:g}")
    return value


def is_transcript(text: str) -> bool:
    """Whether a text is a conversation in the manner of HH-RLHF."""
    begins = text.lstrip().startswith("Human:")
    return begins and (text.startswith("\n\n") or "\n\nAssistant:" in text)


def transcript(text: str) -> Messages:
    """The turns of a transcript, without the white space around them.

    A turn begins where a paragraph begins with "Human:" or "Assistant:". Inside a line these words are
    part of the text. (Nothing in the format tells apart a paragraph of an answer that begins so.)
    """
    _, *parts = _MARKER.split(text)
    roles = ("user" if name == "Human" else "assistant" for name in parts[::2])
    return tuple(Message(role, content.strip()) for role, content in zip(roles, parts[1::2], strict=True))


def _continued(values: Values, *columns: str) -> tuple[Messages, list[str]]:
    """The prompt and the last turns of conversations that go on from it."""
    turns = [_conversation(values.get(column), column, "assistant") for column in columns]
    for conversation, column in zip(turns, columns, strict=True):
        _last_is_assistant(conversation, column)
    shared = _shared_prompt(turns)
    if values.get("prompt") is not None:
        prompt = _prompt_column(values)
        # Some data sets repeat the prompt, or its last turns, in front of each answer.
        if shared and shared[-len(prompt) :] != prompt:
            raise RowError(f"{columns[0]} does not continue the prompt: its earlier turns are different")
        shared = shared or prompt
    return _checked_prompt(shared), [_last_answer(t, c) for t, c in zip(turns, columns, strict=True)]


def _shared_prompt(turns: Iterable[Messages]) -> Messages:
    prompts = {conversation[:-1] for conversation in turns}
    if len(prompts) > 1:
        raise RowError("chosen and rejected have different prompts")
    return prompts.pop()


def _prompt_column(values: Values) -> Messages:
    messages = _conversation(values.get("prompt"), "prompt", "user")
    # A transcript may end with the cue for the answer, an empty turn.
    cue = isinstance(values.get("prompt"), str) and messages[-1] == Message("assistant", "")
    return messages[:-1] if cue else messages


def _checked_prompt(messages: Messages) -> Messages:
    if not messages:
        raise RowError("no prompt: there is no prompt column, and no turn before the answer")
    if messages[-1].role not in ("user", "tool"):
        raise RowError(
            f"the prompt does not end with a user turn: its last turn is the {messages[-1].role}'s"
        )
    if not messages[-1].content.strip():
        raise RowError("the prompt is empty")
    return messages


def _conversation(value: Any, column: str, role: str) -> Messages:
    """A cell as messages; plain text is one message of `role`."""
    if not isinstance(value, list):
        text = _text(value, column, "text or a conversation")
        return transcript(text) if is_transcript(text) else (Message(role, text),)
    if not value:
        raise RowError(f"{column} is empty")
    return tuple(_message(turn, column, i) for i, turn in enumerate(value, 1))


def _message(turn: Any, column: str, i: int) -> Message:
    if not isinstance(turn, dict) or "role" not in turn or "content" not in turn:
        raise RowError(f"{column} has a turn without role and content: turn {i}")
    if turn.get("tool_calls"):
        raise RowError(f"{column} has tool calls, which cannot be read: turn {i}")
    if turn["role"] not in _ROLES:
        raise RowError(f"{column} has an unknown role: {turn['role']!r} (known: {', '.join(_ROLES)})")
    return Message(turn["role"], _text(turn["content"], f"the content of a turn of {column}"))


def _last_is_assistant(messages: Messages, column: str) -> None:
    if messages[-1].role != "assistant":
        raise RowError(f"the last turn of {column} is not the assistant's")


def _last_answer(messages: Messages, column: str) -> str:
    _last_is_assistant(messages, column)
    return _answer(messages[-1].content, column)


def _answer(value: Any, column: str) -> str:
    text = _text(value, column)
    if not text.strip():
        raise RowError(f"{column} is empty")
    return text


def _text(value: Any, column: str, wanted: str = "text") -> str:
    if value is None:
        raise RowError(f"no {column}")
    if not isinstance(value, str):
        raise RowError(f"{column} is {_type_name(value)}, not {wanted}")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise RowError(f"{column} is not valid UTF-8") from None
    return value


def _type_name(value: Any) -> str:
    names = {
        bool: "true/false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)


def _different(chosen: str, rejected: str, complaint: str) -> tuple[str, str]:
    if chosen == rejected:
        raise RowError(complaint)
    return chosen, rejected


def _refuse_extras(values: Values) -> None:
    """Leaving these out would change what the row says."""
    for column in ("images", "image", "tools"):
        if values.get(column):
            raise RowError(f"has {column}, which cannot be read")


def _instruction(values: Values) -> Messages:
    instruction = _text(values.get("instruction"), "instruction")
    context = values.get("input")
    context = _text(context, "input") if context is not None else ""
    text = f"{instruction}\n\n{context}" if context.strip() else instruction
    return _checked_prompt((Message("user", text),))


def _majority(values: Values) -> int:
    columns = sorted(column for column in values if re.fullmatch(r"annotator\d+", column))
    votes = [_verdict(values, column) for column in columns]
    return next((verdict for verdict in (1, 2) if 2 * votes.count(verdict) > len(votes)), 0)


def _verdict(values: Values, column: str) -> int:
    value = values.get(column)
    if value is None:
        raise RowError(f"no {column}")
    if isinstance(value, bool) or value not in (0, 1, 2):
        raise RowError(f"{column} is not 1, 2 or 0 (a tie)")
    return int(value)
