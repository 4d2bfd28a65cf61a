"""The fake sampler, and the limits that every sampler checks."""

from __future__ import annotations

import pytest

from accord.errors import ConfigError
from accord.records import Prompt, Sampling
from accord.rollout.sampler import FakeSampler, Sampler, check_sampling

PROMPTS = [Prompt.of("Hi"), Prompt.of("Which watch?")]


def test_canned_answers_are_cycled():
    sampler: Sampler = FakeSampler({"Hi": ["Hello!", "What?"]}, policy_version="p3")
    greeting, _ = sampler.sample(PROMPTS, 3, Sampling())
    assert [c.text for c in greeting.completions] == ["Hello!", "What?", "Hello!"]
    assert [c.index for c in greeting.completions] == [0, 1, 2]
    assert {(c.prompt_id, c.policy_version) for c in greeting.completions} == {(PROMPTS[0].id, "p3")}


def test_other_prompts_get_words_fixed_by_the_seed():
    sampler = FakeSampler()
    once, again = (
        sampler.sample(PROMPTS, 4, Sampling(seed=1)),
        sampler.sample(PROMPTS[::-1], 4, Sampling(seed=1)),
    )
    assert once == again[::-1]
    texts = [c.text for group in once for c in group.completions]
    assert len(set(texts)) == len(texts) and all(3 <= len(text.split()) <= 8 for text in texts)
    other = sampler.sample(PROMPTS, 4, Sampling(seed=2))
    assert not set(texts) & {c.text for group in other for c in group.completions}
    assert sampler.calls == 3


def test_length_limit_cuts_words():
    (group,) = FakeSampler().sample(PROMPTS[:1], 5, Sampling(max_new_tokens=2))
    assert all(len(c.text.split()) == 2 and c.finish_reason == "length" for c in group.completions)
    (whole,) = FakeSampler().sample(PROMPTS[:1], 5, Sampling())
    assert {c.finish_reason for c in whole.completions} == {"stop"}


def test_progress_ends_with_everything():
    seen: list[tuple[int, int]] = []
    FakeSampler().sample(PROMPTS, 3, Sampling(), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 6), (6, 6)]


@pytest.mark.parametrize(
    ("k", "sampling", "message"),
    [
        (0, Sampling(), "k is 0"),
        (1, Sampling(temperature=-0.1), "temperature is -0.1"),
        (1, Sampling(temperature=float("nan")), "temperature is nan"),
        (1, Sampling(top_p=0.0), "top_p is 0.0"),
        (1, Sampling(top_p=1.01), "top_p is 1.01"),
        (1, Sampling(max_new_tokens=0), "max_new_tokens is 0"),
    ],
)
def test_settings_out_of_range_are_refused(k, sampling, message):
    with pytest.raises(ConfigError, match=message):
        check_sampling(k, sampling)
    with pytest.raises(ConfigError, match=message):
        FakeSampler().sample(PROMPTS, k, sampling)
