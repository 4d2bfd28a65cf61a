"""The core types. Everything that flows between the stages is one of these; all are frozen.

One shape runs through the whole loop: a `Group`, a prompt with its k completions. A demonstration is
k = 1, a comparison k = 2, a ranking k = n, on-policy samples k = G.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # the ledger and the web app use this module and must not load torch
    from torch import Tensor

FinishReason = Literal["stop", "length"]
RaterKind = Literal["human", "model", "simulated"]
Purpose = Literal["judge", "repeat", "gold", "adjudicate"]


def content_hash(value: Any) -> str:
    """First 32 hex digits of the SHA-256 of `value` as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True)
class Message:
    role: str  # "system", "user", "assistant" or "tool"
    content: str


@dataclass(frozen=True)
class Prompt:
    """A conversation up to the point where the policy speaks. Its id is a hash of its messages."""

    messages: tuple[Message, ...]
    source: str = ""
    tags: tuple[str, ...] = ()

    @cached_property
    def id(self) -> str:
        return content_hash([[m.role, m.content] for m in self.messages])

    @classmethod
    def of(cls, text: str, *, system: str = "", source: str = "", tags: tuple[str, ...] = ()) -> Prompt:
        """A single user turn, with an optional system message before it."""
        system_turn = (Message("system", system),) if system else ()
        return cls((*system_turn, Message("user", text)), source, tags)


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. `seed` with prompt id and sample index fixes every draw."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 96
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """One answer to a prompt.

    `token_ids` (with the end-of-turn token, when `finish_reason` is "stop") and `logps` (natural
    log-probabilities at the sampling temperature, one per token) are empty for text that a person wrote.
    """

    prompt_id: str
    text: str
    token_ids: tuple[int, ...] = ()
    logps: tuple[float, ...] = ()
    policy_version: str = ""
    sampling: Sampling | None = None
    finish_reason: FinishReason = "stop"
    index: int = 0  # which of the prompt's samples this is

    @cached_property
    def id(self) -> str:
        sampling = asdict(self.sampling) if self.sampling else None
        return content_hash([self.prompt_id, self.text, self.policy_version, sampling, self.index])


@dataclass(frozen=True)
class Group:
    """A prompt with its k completions."""

    prompt: Prompt
    completions: tuple[Completion, ...]

    @classmethod
    def of(cls, prompt: Prompt, *texts: str) -> Group:
        """A group of written answers (no token ids, no policy)."""
        return cls(prompt, tuple(Completion(prompt.id, text, index=i) for i, text in enumerate(texts)))


@dataclass(frozen=True)
class Question:
    """A group put to raters, how many answers are wanted, and why it was asked."""

    group: Group
    reason: str
    kind: Literal["pair", "ranking"] = "pair"  # a ranking puts 3 to 9 answers in order
    overlap: int = 1  # how many different raters should answer


@dataclass(frozen=True)
class Judgement:
    """One rater's answer to a pair or a ranking, in canonical slots (never in displayed positions).

    `strength` runs from -3 (slot 1 much better) over 0 (tie) to +3 (slot 0 much better).
    `shown` lists the slot that stood at each displayed position, left first. Only with the purpose "judge"
    is it a vote on the pair; "repeat" and "gold" are checks on the rater, and "adjudicate" settles the pair.

    Of a ranking, `ranks` has each slot's place, one more than the number of better answers (equal: tied), and
    `strength` is 0, which is no tie. `accord.ledger.rankings.comparisons` makes pairs of it.
    """

    id: str
    item_id: str
    rater: str
    rater_kind: RaterKind
    prompt_id: str
    completion_ids: tuple[str, ...]  # by slot
    strength: int
    shown: tuple[int, ...]
    guideline: str
    seconds: float
    revision: int = 1
    purpose: Purpose = "judge"
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Preference:
    """What judgements add up to. `to_row` is exactly TRL's conversational preference row.

    A tie is `margin == 0` with `tie=True`; which text is then called chosen means nothing.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float = 0.0
    weight: float = 1.0
    tie: bool = False
    provenance: tuple[str, ...] = ()  # judgement ids, or "file:line"

    def to_row(self) -> dict[str, Any]:
        row = {
            "prompt": [asdict(m) for m in self.prompt.messages],
            "chosen": [{"role": "assistant", "content": self.chosen}],
            "rejected": [{"role": "assistant", "content": self.rejected}],
            "margin": self.margin,
            "weight": self.weight,
        }
        return {**row, "tie": True} if self.tie else row


@dataclass(frozen=True)
class Rollout:
    """On-policy completions with everything the update needs; made once, never changed.

    C completions of one prompt, T their longest length in tokens; `mask_CT` marks real tokens.
    """

    group: Group
    scores_C: Tensor  # the reward model's score (or the rules'), before any KL term
    logps_CT: Tensor  # under the policy that sampled
    ref_logps_CT: Tensor
    values_CT: Tensor  # zeros for methods without a critic
    advantages_CT: Tensor
    returns_CT: Tensor
    mask_CT: Tensor


@dataclass(frozen=True)
class Terms:
    """What a loss returns for one micro-batch: sums only, never means.

    The engine divides `loss` by a count taken over the whole step (all micro-batches, all processes), so
    that neither micro-batching nor padding can change the gradient. `metrics` holds (sum, count) pairs,
    which are added up in the same way before they are divided.
    """

    loss: Tensor
    metrics: Mapping[str, tuple[Tensor | float, Tensor | float]] = field(default_factory=dict)
