"""What a local sampler returns, when it stops, and how it refuses."""

from __future__ import annotations

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from accord.data.render import Renderer
from accord.errors import ConfigError, DataError, ModelError, NumericsError
from accord.records import Group, Prompt, Sampling
from accord.rollout import decoding
from accord.rollout.decoders import Waves, compact, takes_slots
from accord.rollout.local import LocalSampler
from accord.rollout.sampler import Sampler
from tiny import tiny_llama, tiny_tokenizer

RENDERER = Renderer(tiny_tokenizer())
PROMPTS = [Prompt.of("Which watch?"), Prompt.of("And the price of it, please?"), Prompt.of("Hi")]
END, EOS = 258, 256  # the template's end of turn is not the model's eos


def _sampler(model: PreTrainedModel | None = None, rows: int = 4) -> LocalSampler:
    return LocalSampler(model or tiny_llama(), RENDERER, policy_version="p1", rows=rows)


def _biased(token: int, by: float) -> PreTrainedModel:
    """A model that likes one token more than it would."""
    model = tiny_llama()
    model.lm_head.register_forward_hook(
        lambda module, inputs, output: output + by * (torch.arange(output.shape[-1]) == token)
    )
    return model


def _completions(groups: list[Group]) -> list:
    return [c for group in groups for c in group.completions]


def test_records_are_complete_and_in_order():
    sampling = Sampling(max_new_tokens=12, seed=5)
    sampler: Sampler = _sampler()
    groups = sampler.sample(PROMPTS, 3, sampling)
    assert [group.prompt for group in groups] == PROMPTS
    for group in groups:
        assert [c.index for c in group.completions] == [0, 1, 2]
        for c in group.completions:
            assert (c.prompt_id, c.policy_version, c.sampling) == (group.prompt.id, "p1", sampling)
            assert len(c.token_ids) == len(c.logps) <= 12 and max(c.logps) <= 0
            assert c.text == RENDERER.text(c.token_ids)
    assert len({c.token_ids for c in _completions(groups)}) == 9


@pytest.mark.parametrize("end", [END, EOS])
def test_stops_at_either_end_token_and_keeps_it(end):
    done = _completions(_sampler(_biased(end, 5.0)).sample(PROMPTS, 8, Sampling(max_new_tokens=10)))
    stopped = [c for c in done if c.finish_reason == "stop"]
    assert stopped and len({len(c.token_ids) for c in stopped}) > 1
    for c in done:
        assert (c.token_ids[-1] in (END, EOS)) == (c.finish_reason == "stop")
        assert not {END, EOS} & set(c.token_ids[:-1])
        assert c.finish_reason == "stop" or len(c.token_ids) == 10
    assert any(c.token_ids[-1] == end for c in stopped)


def test_length_is_the_reason_when_nothing_ends():
    letter = RENDERER.completion("A")[0]
    done = _completions(_sampler(_biased(letter, 100.0)).sample(PROMPTS, 2, Sampling(max_new_tokens=3)))
    assert all((c.text, c.finish_reason, c.token_ids) == ("AAA", "length", (letter,) * 3) for c in done)


def test_one_token_answers_and_the_list_of_eos_ids():
    model = tiny_llama()
    assert all(
        len(c.token_ids) == 1
        for c in _completions(_sampler(model).sample(PROMPTS, 5, Sampling(max_new_tokens=1)))
    )
    model = _biased(70, 100.0)
    model.generation_config.eos_token_id = [EOS, 70]
    assert {c.token_ids for c in _completions(_sampler(model).sample(PROMPTS, 2, Sampling()))} == {(70,)}


def test_greedy_is_the_argmax_of_a_plain_forward():
    model = tiny_llama()
    (group,) = _sampler(model).sample(PROMPTS[:1], 2, Sampling(temperature=0.0, max_new_tokens=8))
    first, second = group.completions
    assert first.token_ids == second.token_ids
    ids = torch.tensor([[*RENDERER.prompt(PROMPTS[0]), *first.token_ids]])
    with torch.no_grad():
        best = model(ids).logits[0, -len(first.token_ids) - 1 : -1].argmax(-1)
    assert tuple(best.tolist()) == first.token_ids


def test_each_distinct_prompt_is_run_once():
    model, seen = tiny_llama(), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    groups = _sampler(model, rows=3).sample([*PROMPTS, PROMPTS[0]], 5, Sampling(max_new_tokens=6))
    assert sum(rows for rows, length in seen if length > 1) == len(PROMPTS)
    assert max(rows for rows, length in seen if length == 1) == 3  # never more than asked for
    assert groups[0] == groups[3]


def test_the_plain_decoder_keeps_to_its_rows_too(monkeypatch):
    model, seen = tiny_llama(), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    monkeypatch.setattr(decoding, "decoder_for", Waves)
    _sampler(model, rows=3).sample(PROMPTS, 5, Sampling(max_new_tokens=6))
    assert max(seen) == 3


def test_progress_rises_to_the_number_of_completions():
    seen: list[tuple[int, int]] = []
    _sampler().sample(PROMPTS, 4, Sampling(max_new_tokens=20), on_progress=lambda *at: seen.append(at))
    assert [total for _, total in seen] == [12] * len(seen)
    assert seen == sorted(set(seen)) and seen[-1] == (12, 12)


def test_new_weights_are_used_at_once():
    model = tiny_llama()
    sampler, sampling = _sampler(model), Sampling(max_new_tokens=10)
    before = sampler.sample(PROMPTS, 2, sampling)
    model.load_state_dict(tiny_llama(seed=9).state_dict())
    sampler.policy_version = "p2"
    after = sampler.sample(PROMPTS, 2, sampling)
    fresh = LocalSampler(tiny_llama(seed=9), RENDERER, policy_version="p2").sample(PROMPTS, 2, sampling)
    tokens = [[c.token_ids for c in _completions(groups)] for groups in (before, after, fresh)]
    assert tokens[1] == tokens[2] != tokens[0]
    assert {c.policy_version for c in _completions(after)} == {"p2"}


def test_nothing_to_sample():
    assert _sampler().sample([], 4, Sampling()) == []


def test_prompt_without_room_is_refused_with_the_numbers():
    prompt = Prompt.of("x" * 300, source="prompts.jsonl:7")
    length = len(RENDERER.prompt(prompt))
    model = tiny_llama(max_position_embeddings=length + 10)
    (group,) = _sampler(model).sample([prompt], 1, Sampling(max_new_tokens=10))
    assert group.prompt == prompt
    with pytest.raises(DataError, match=f"prompts.jsonl:7.* {length} tokens.*11 .*context of {length + 10}"):
        _sampler(model).sample([prompt], 1, Sampling(max_new_tokens=11))


def test_refusals():
    with pytest.raises(ConfigError, match="rows is 0"):
        _sampler(rows=0)
    with pytest.raises(ConfigError, match="top_p is 2"):
        _sampler().sample(PROMPTS, 1, Sampling(top_p=2))
    with pytest.raises(ModelError, match="training mode"):
        _sampler(tiny_llama().train()).sample(PROMPTS, 1, Sampling())
    broken = tiny_llama()
    with torch.no_grad():
        broken.model.norm.weight.fill_(torch.nan)
    with pytest.raises(NumericsError, match="policy 'p1' are not finite at token 0"):
        _sampler(broken).sample(PROMPTS, 1, Sampling())
    config = MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1)
    with pytest.raises(ModelError, match="MambaForCausalLM takes no past_key_values"):
        _sampler(MambaForCausalLM(config).eval()).sample(PROMPTS, 1, Sampling())


def test_an_interrupt_passes_and_leaves_the_sampler_usable():
    model = tiny_llama()
    sampler, sampling = _sampler(model), Sampling(max_new_tokens=10)
    expected = sampler.sample(PROMPTS, 3, sampling)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampler.sample(PROMPTS, 3, sampling, on_progress=interrupt)
    assert sampler.sample(PROMPTS, 3, sampling) == expected
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_models_with_a_window_do_not_get_a_prepared_mask():
    shape = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    assert takes_slots(tiny_llama())
    assert takes_slots(MistralForCausalLM(MistralConfig(**shape, sliding_window=None)))
    assert not takes_slots(MistralForCausalLM(MistralConfig(**shape, sliding_window=8)))


def test_compaction_moves_as_little_as_it_can():
    assert compact([True, True]) == [0, 1]
    assert compact([False, True, False, True, True]) == [3, 1, 4]
    assert compact([True, False, False]) == [0]
    assert compact([False, False]) == []
