"""Conversation to tokens, and back. The only renderer in the project: every stage trains, samples and
scores on exactly these tokens.

With a chat template, a conversation is what the template says it is, and a completion is the tail of the
whole conversation's rendering. Without one, each message is a line `role: content`, and the assistant's
lines end with the tokenizer's end-of-sequence token:

    user: What is the capital of France?
    assistant: Paris</s>

The prompt then ends with `assistant:`, and the completion starts with the space.

Text is never control. A special token's name inside a message (`<|im_end|>` typed by a user) is tokenised as
the characters it consists of, so no message can end its own turn or open another's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from accord.errors import DataError, ModelError
from accord.records import Group, Message, Prompt

ROLES = ("system", "user", "assistant", "tool")
# Stands for any conversation where only the answer matters.
_STUB = (Message("user", "Hello"),)


@dataclass(frozen=True)
class Encoded:
    """A tokenised group. Each completion ends with the end-of-turn token iff it finished."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[tuple[int, ...], ...]


class Renderer:
    """Renders conversations for one tokenizer.

    `end_id` is the token that ends an assistant's turn in the chat template (`<|eot_id|>` in Llama 3, which
    is not its eos), or the tokenizer's eos where there is no template.
    """

    end_id: int

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises ModelError when nothing marks the end of the assistant's turn."""
        self.tokenizer = tokenizer
        bos = tokenizer.bos_token_id
        self._bos = tokenizer.bos_token if bos is not None and tokenizer("").input_ids[:1] == [bos] else ""
        self._marks: dict[str, str] = {}  # name of a special token -> what stands for it while rendering
        self._spelled: dict[str, list[int]] = {}  # that stand-in -> the name as plain characters
        self.end_id = self._find_end()
        self._disarm()
        self._stub_ids = self.prompt(Prompt(_STUB))

    def prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """The conversation so far, up to and including the header of the assistant's next turn.

        Raises DataError when the conversation is empty, has an unknown role, or the template refuses it.
        """
        if not prompt.messages:
            raise DataError(f"prompt {prompt.id} has no messages; give it at least one user turn")
        return tuple(self._tokenise(self._render(prompt.messages, open_turn=True)))

    def completion(self, text: str, *, finished: bool = True) -> tuple[int, ...]:
        """An answer's tokens, with the end-of-turn token iff it `finished`.

        They are what follows the prompt in the whole conversation's rendering. Where that does not start
        with the prompt's tokens (an answer's leading newline may merge with the header's), no policy could
        ever have sampled it, and the text is tokenised on its own.
        """
        whole = self._tokenise(self._render((*_STUB, Message("assistant", text)), open_turn=False))
        head = len(self._stub_ids)
        if tuple(whole[:head]) == self._stub_ids and self.end_id in whole[head:]:
            tail = whole[head:]
        else:
            tail = [*self._tokenise(self._guard(text)), self.end_id]
        return tuple(tail[: tail.index(self.end_id) + finished])

    def group(self, group: Group) -> Encoded:
        """The group's tokens: the sampled ones where there are any, else those of the text."""
        return Encoded(
            self.prompt(group.prompt),
            tuple(
                c.token_ids or self.completion(c.text, finished=c.finish_reason == "stop")
                for c in group.completions
            ),
        )

    def text(self, ids: Sequence[int]) -> str:
        """The answer that a completion's tokens spell: up to the end of the turn, no special tokens."""
        answer = list(ids)
        if self.end_id in answer:
            answer = answer[: answer.index(self.end_id)]
        text = str(
            self.tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )
        return text if self.tokenizer.chat_template else text.removeprefix(" ")

    def _render(self, messages: Sequence[Message], *, open_turn: bool) -> str:
        """The conversation as one string, where only the layout's own special tokens have their names."""
        for message in messages:
            if message.role not in ROLES:
                raise DataError(
                    f"unknown role {message.role!r} in a conversation; use one of {', '.join(ROLES)}"
                )
        safe = [{"role": m.role, "content": self._guard(m.content)} for m in messages]
        if not self.tokenizer.chat_template:
            end = {"assistant": self.tokenizer.eos_token}
            lines = [f"{m['role']}: {m['content']}{end.get(m['role'], '')}\n" for m in safe]
            return self._bos + "".join(lines) + "assistant:" * open_turn
        try:
            return str(
                self.tokenizer.apply_chat_template(safe, tokenize=False, add_generation_prompt=open_turn)
            )
        except TemplateError as error:
            roles = ", ".join(m.role for m in messages)
            raise DataError(
                f"the chat template of {self.tokenizer.name_or_path!r} refuses a conversation with the roles "
                f"{roles}: {error}; drop or merge the turns it does not know"
            ) from error

    def _tokenise(self, rendered: str) -> list[int]:
        """Tokens of a rendered string. Guarded names become plain characters; no BOS beyond the layout's."""
        if not any(mark in rendered for mark in self._spelled):
            return self.tokenizer(rendered, add_special_tokens=False).input_ids
        ids: list[int] = []
        for piece in re.split(f"({'|'.join(map(re.escape, self._spelled))})", rendered):
            ids += self._spelled.get(piece) or self.tokenizer(piece, add_special_tokens=False).input_ids
        return ids

    def _guard(self, text: str) -> str:
        """The text with every special token's name replaced by its stand-in."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"a message holds half a surrogate pair at character {error.start}, which no tokenizer "
                "takes; repair the file's encoding"
            ) from error
        for name, mark in self._marks.items():
            text = text.replace(name, mark)
        return text

    def _disarm(self) -> None:
        """Learn the names that must not act as tokens when they stand in a message, and their spelling."""
        added = self.tokenizer.added_tokens_decoder
        special = {i for i, token in added.items() if token.special}
        special |= {*self.tokenizer.all_special_ids, self.end_id}
        names = self.tokenizer.convert_ids_to_tokens(sorted(special))
        for n, name in enumerate(
            sorted(names, key=len, reverse=True)
        ):  # the longest first: some contain others
            spelled = self._spell(name)
            if special & set(spelled):  # some tokenizers find the whole name in their ordinary vocabulary
                spelled = [i for character in name for i in self._spell(character)]
            self._marks[name] = mark = f"\ue000{n}\ue001"  # private use: no text has it by chance
            self._spelled[mark] = spelled

    def _spell(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids

    def _find_end(self) -> int:
        """The first added token after an assistant's words."""
        if not self.tokenizer.chat_template:
            if self.tokenizer.eos_token_id is not None:
                return self.tokenizer.eos_token_id
            raise ModelError(
                f"the tokenizer {self.tokenizer.name_or_path!r} has neither a chat template nor an eos "
                "token, so no answer could ever end; set `eos_token` or add a chat template"
            )
        sentinel = "Accord sentinel"
        rendered = self._render((*_STUB, Message("assistant", sentinel)), open_turn=False)
        known = {*self.tokenizer.added_tokens_decoder, *self.tokenizer.all_special_ids}
        _, found, after = rendered.rpartition(sentinel)
        for token in self._tokenise(after) if found else []:
            if token in known:
                return token
        raise ModelError(
            f"the chat template of {self.tokenizer.name_or_path!r} puts no special token after an "
            "assistant's turn, so the policy could not learn to stop; end it with the tokenizer's eos"
        )
