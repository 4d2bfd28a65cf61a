"""What must not change what is sampled, and log-probabilities that a trainer's forward confirms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

from accord.data.render import Renderer
from accord.records import Completion, Group, Prompt, Sampling
from accord.rollout import decoders, decoding
from accord.rollout.local import LocalSampler
from tiny import VOCAB, tiny_gpt2, tiny_llama, tiny_qwen, tiny_tokenizer

RENDERER = Renderer(tiny_tokenizer())
# Unequal lengths, two equal ones, and answers that grow past the first allocation of columns.
PROMPTS = [Prompt.of("x" * n + mark) for n, mark in ((3, "a"), (60, "b"), (9, "c"), (9, "d"), (25, "e"))]
SAMPLING = Sampling(max_new_tokens=48, seed=11, temperature=0.8)


def tiny_mistral() -> PreTrainedModel:
    """A window far shorter than the prompts, so that the plain decoder must be chosen."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
        initializer_range=0.2,
        eos_token_id=256,
    )
    return MistralForCausalLM(config).eval()


FAMILIES: list[Callable[[], PreTrainedModel]] = [tiny_llama, tiny_qwen, tiny_gpt2, tiny_mistral]


def _sample(
    model: PreTrainedModel, prompts: list[Prompt], *, rows: int, sampling: Sampling = SAMPLING, k: int = 4
):
    return LocalSampler(model, RENDERER, policy_version="p", rows=rows).sample(prompts, k, sampling)


def _by_prompt(groups: list[Group]) -> dict[str, list[tuple[int, ...]]]:
    return {group.prompt.id: [c.token_ids for c in group.completions] for group in groups}


def _forward_logps(model: PreTrainedModel, prompt: Prompt, completion: Completion, temperature: float):
    """Log-probabilities of a completion by one plain forward over the whole sequence."""
    head = RENDERER.prompt(prompt)
    ids = torch.tensor([[*head, *completion.token_ids]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(head) - 1 : -1].double() / temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("rows", [3, 64])
def test_recorded_logps_are_those_of_a_plain_forward(family, dtype, tolerance, rows):
    model = family().to(dtype)
    for group in _sample(model, PROMPTS, rows=rows):
        for completion in group.completions:
            recorded = torch.tensor(completion.logps, dtype=torch.float64)
            plain = _forward_logps(model, group.prompt, completion, SAMPLING.temperature)
            torch.testing.assert_close(recorded, plain, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("sampling", "at"),
    [(Sampling(max_new_tokens=20, top_p=0.7), 1.0), (Sampling(max_new_tokens=20, temperature=0), 1.0)],
)
def test_top_p_and_greedy_record_the_full_distribution(sampling, at):
    model = tiny_llama().double()
    for group in _sample(model, PROMPTS, rows=64, sampling=sampling):
        for completion in group.completions:
            recorded = torch.tensor(completion.logps, dtype=torch.float64)
            plain = _forward_logps(model, group.prompt, completion, at)
            torch.testing.assert_close(recorded, plain, rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_rows_order_and_company_change_nothing(family, top_p):
    model = family().double()  # in float32 rounding may tip a draw
    sampling = Sampling(max_new_tokens=48, seed=11, temperature=1.6, top_p=top_p)
    expected = _by_prompt(_sample(model, PROMPTS, rows=64, sampling=sampling))
    lengths = {len(tokens) for group in expected.values() for tokens in group}
    assert len(lengths) > 2, "the rows must end at different times for this test to mean anything"
    for rows in (1, 2, 5, 7):
        assert _by_prompt(_sample(model, PROMPTS, rows=rows, sampling=sampling)) == expected
    assert _by_prompt(_sample(model, PROMPTS[::-1], rows=5, sampling=sampling)) == expected
    for prompt in PROMPTS:
        assert _by_prompt(_sample(model, [prompt], rows=64, sampling=sampling)) == {
            prompt.id: expected[prompt.id]
        }
    more = _by_prompt(_sample(model, PROMPTS, rows=6, sampling=sampling, k=6))
    assert {prompt_id: group[:4] for prompt_id, group in more.items()} == expected


@pytest.mark.parametrize("family", [tiny_llama, tiny_qwen, tiny_gpt2])
def test_all_decoders_sample_the_same(family, monkeypatch):
    model = family().double()
    assert decoders.takes_slots(model)
    fastest = _by_prompt(_sample(model, PROMPTS, rows=5))
    monkeypatch.setattr(decoding, "is_llama", lambda model: False)
    assert _by_prompt(_sample(model, PROMPTS, rows=5)) == fastest
    monkeypatch.setattr(decoding, "decoder_for", decoders.Waves)
    assert _by_prompt(_sample(model, PROMPTS, rows=5)) == fastest


def test_a_lower_length_limit_gives_a_beginning_of_the_same_completions():
    model = tiny_llama().double()
    whole = _by_prompt(_sample(model, PROMPTS, rows=64))
    short = Sampling(max_new_tokens=5, seed=11, temperature=0.8)
    cut = _by_prompt(_sample(model, PROMPTS, rows=64, sampling=short))
    assert cut == {prompt_id: [tokens[:5] for tokens in group] for prompt_id, group in whole.items()}


def test_another_seed_samples_something_else():
    model = tiny_llama().double()
    one, two = (_by_prompt(_sample(model, PROMPTS, rows=64, sampling=Sampling(seed=s))) for s in (1, 2))
    assert not {t for g in one.values() for t in g} & {t for g in two.values() for t in g}


def test_different_conversations_that_render_alike_share_a_prefill_but_not_their_draws():
    class Alike:
        end_id = RENDERER.end_id
        text = staticmethod(RENDERER.text)

        def prompt(self, prompt: Prompt) -> tuple[int, ...]:
            return RENDERER.prompt(PROMPTS[0])

    model = tiny_llama().double()
    for rows in (1, 3, 4, 64):
        groups = LocalSampler(model, Alike(), policy_version="p", rows=rows).sample(PROMPTS[:2], 4, SAMPLING)
        one, two = (set(tokens) for tokens in _by_prompt(groups).values())
        assert one == set(_by_prompt(_sample(model, PROMPTS[:1], rows=64))[PROMPTS[0].id])
        assert not one & two
