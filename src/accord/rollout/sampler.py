"""What a sampler is, and a fake one that needs no model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from accord.errors import ConfigError
from accord.records import Completion, FinishReason, Group, Prompt, Sampling

Progress = Callable[[int, int], None]  # (completions finished, completions asked for)


class Sampler(Protocol):
    """Draws k completions for each prompt from one version of a policy."""

    policy_version: str

    def sample(
        self, prompts: Sequence[Prompt], k: int, sampling: Sampling, *, on_progress: Progress | None = None
    ) -> list[Group]:
        """One group of k completions per prompt, in the order of `prompts`."""
        ...


def check_sampling(k: int, sampling: Sampling) -> None:
    """Raise ConfigError when `k` or a field of `sampling` is out of range."""
    rules = (
        (k >= 1, f"k is {k}: ask for at least one completion per prompt"),
        (sampling.temperature >= 0, f"temperature is {sampling.temperature}: use 0 (greedy) or more"),
        (0 < sampling.top_p <= 1, f"top_p is {sampling.top_p}: use a value above 0 and at most 1"),
        (sampling.max_new_tokens >= 1, f"max_new_tokens is {sampling.max_new_tokens}: use 1 or more"),
    )
    for holds, message in rules:
        if not holds:
            raise ConfigError(message)


WORDS = ("yes", "no", "perhaps", "sure", "the", "a", "blue", "red", "shop", "watch", "please", "thanks")


@dataclass
class FakeSampler:
    """A sampler for tests: deterministic, instant, no model, no tokens.

    `texts` maps the content of a prompt's last message to canned answers; sample i gets answer i modulo
    their number. Any other prompt gets words chosen by a hash of (sampling.seed, prompt id, sample index),
    so two calls agree and two seeds differ. A hashed answer has 3 to 8 words; it is cut to
    `max_new_tokens` words, and then its finish reason is "length". Token ids and log-probabilities stay
    empty. `calls` counts the calls of `sample`.

    >>> group = FakeSampler({"Hi": ["Hello!", "What?"]}).sample([Prompt.of("Hi")], 3, Sampling())[0]
    >>> [completion.text for completion in group.completions]
    ['Hello!', 'What?', 'Hello!']
    """

    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    policy_version: str = "fake"
    calls: int = 0

    def sample(
        self, prompts: Sequence[Prompt], k: int, sampling: Sampling, *, on_progress: Progress | None = None
    ) -> list[Group]:
        check_sampling(k, sampling)
        self.calls += 1
        groups: list[Group] = []
        for prompt in prompts:
            groups.append(Group(prompt, tuple(self._completion(prompt, i, sampling) for i in range(k))))
            if on_progress is not None:
                on_progress(len(groups) * k, len(prompts) * k)
        return groups

    def _completion(self, prompt: Prompt, index: int, sampling: Sampling) -> Completion:
        canned = self.texts.get(prompt.messages[-1].content) if prompt.messages else None
        reason: FinishReason = "stop"
        if canned:
            text = canned[index % len(canned)]
        else:
            digest = hashlib.blake2b(f"{sampling.seed}/{prompt.id}/{index}".encode(), digest_size=9).digest()
            words = [WORDS[byte % len(WORDS)] for byte in digest[1 : 4 + digest[0] % 6]]
            reason = "length" if len(words) > sampling.max_new_tokens else "stop"
            text = " ".join(words[: sampling.max_new_tokens])
        return Completion(
            prompt.id,
            text,
            policy_version=self.policy_version,
            sampling=sampling,
            finish_reason=reason,
            index=index,
        )
