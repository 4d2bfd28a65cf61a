"""Decoding of all families against a sampler that runs the whole sequence again for every token."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from accord.data.render import Renderer
from accord.errors import ConfigError
from accord.models.adapters import sharing
from accord.models.products import quicken
from accord.records import Prompt, Sampling
from accord.rollout import decoders, local, siblings
from accord.rollout.decoding import decoding
from accord.rollout.draw import draw, uniforms
from accord.rollout.llama import Llama, is_llama
from accord.rollout.local import LocalSampler
from accord.rollout.packed import Packing, multiplies_bfloat16
from accord.rollout.siblings import Siblings, _Grouping
from tiny import VOCAB, tiny_gpt2, tiny_llama, tiny_qwen, tiny_tokenizer

RENDERER = Renderer(tiny_tokenizer())
PROMPTS = [Prompt.of("x" * n + mark) for n, mark in ((3, "a"), (40, "b"), (9, "c"), (9, "d"))]
BFLOAT16 = pytest.mark.skipif(not multiplies_bfloat16(), reason="this processor does not multiply bfloat16")
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "eos_token_id": 256,
    "bos_token_id": None,
    "pad_token_id": 256,
}


def _seeded(kind: type[PreTrainedModel], config: object) -> PreTrainedModel:
    torch.manual_seed(0)
    model = kind(config).eval()  # type: ignore[call-arg]
    with torch.no_grad():  # norms and biases start as ones and zeros, which would hide that they are left out
        for name, weight in model.named_parameters():
            if "norm" in name or "bias" in name:
                weight.add_(torch.randn_like(weight) * 0.3)
    return model


def _wide_heads() -> PreTrainedModel:
    return _seeded(Qwen3ForCausalLM, Qwen3Config(**SHAPE, head_dim=16))  # heads wider than the trunk


FAST: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": tiny_llama,
    "llama, biased": lambda: _seeded(
        type(tiny_llama()), tiny_llama(attention_bias=True, mlp_bias=True).config
    ),
    "llama, yarn": lambda: tiny_llama(
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 2.0,
            "original_max_position_embeddings": 512,
        }
    ),
    "qwen2": tiny_qwen,
    "qwen3": _wide_heads,
    "mistral": lambda: _seeded(MistralForCausalLM, MistralConfig(**SHAPE, sliding_window=None)),
    "one query per key": lambda: tiny_llama(num_key_value_heads=4),
}
OTHERS: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": tiny_gpt2,
    "gemma": lambda: _seeded(GemmaForCausalLM, GemmaConfig(**SHAPE, head_dim=8)),
    "mistral with a window": lambda: _seeded(MistralForCausalLM, MistralConfig(**SHAPE, sliding_window=8)),
}


def _naive(model: PreTrainedModel, prompt: Prompt, index: int, sampling: Sampling):
    """(tokens, log-probabilities) of one completion, without cache, packing or company."""
    ids, tokens, logps = list(RENDERER.prompt(prompt)), [], []
    stream = uniforms(sampling.seed, prompt.id, index, sampling.max_new_tokens)
    while len(tokens) < sampling.max_new_tokens and not {256, RENDERER.end_id} & set(tokens):
        with torch.no_grad():
            logits = model(torch.tensor([ids + tokens])).logits[:, -1]
        point = torch.tensor(stream[len(tokens) : len(tokens) + 1])
        token, logp = draw(logits, point, temperature=sampling.temperature, top_p=sampling.top_p)
        tokens.append(int(token))
        logps.append(float(logp))
    return tokens, logps


def _same_as_naive(model: PreTrainedModel, rows: int, sampling: Sampling, k: int = 3) -> None:
    groups = LocalSampler(model, RENDERER, policy_version="p", rows=rows).sample(PROMPTS, k, sampling)
    for group in groups:
        for completion in group.completions:
            tokens, logps = _naive(model, group.prompt, completion.index, sampling)
            assert list(completion.token_ids) == tokens
            assert completion.logps == pytest.approx(logps, abs=1e-9)


@pytest.mark.parametrize("family", [*FAST, *OTHERS])
@pytest.mark.parametrize("rows", [5, 12])
def test_all_families_sample_what_a_naive_sampler_does(family, rows):
    model = {**FAST, **OTHERS}[family]().double()
    assert is_llama(model) == (family in FAST)
    _same_as_naive(model, rows, Sampling(max_new_tokens=14, seed=3, temperature=1.2))


def test_columns_of_rows_long_gone_are_used_again(monkeypatch):
    """Rows leave and enter for so long that the table is shifted, several times."""
    shifted: list[int] = []
    shift = siblings._Table.shift

    def counted(table: siblings._Table, low: int, end: int) -> None:
        shifted.append(low)
        shift(table, low, end)

    for module in (decoders, siblings):
        monkeypatch.setattr(module, "GRAIN", 4)
    monkeypatch.setattr(siblings._Table, "shift", counted)
    _same_as_naive(tiny_llama().double(), 3, Sampling(max_new_tokens=12, seed=1, temperature=1.5), k=4)
    assert shifted and min(shifted) >= 4


class _Waiting:
    def __init__(self, prompt_ids: tuple[int, ...], last_of_prompt: bool) -> None:
        self.prompt_ids, self.last_of_prompt = prompt_ids, last_of_prompt


@torch.inference_mode()
def test_plain_weights_go_as_packed_ones_come(monkeypatch):
    model, there = tiny_llama(layers=3), []
    weights = [weakref.ref(layer.mlp.down_proj.weight) for layer in model.model.layers]
    laid_out = Packing._laid_out

    def counted(self, layers):
        there.append(sum(weight() is not None for weight in weights))
        return laid_out(self, layers)

    monkeypatch.setattr(Packing, "_laid_out", counted)
    Llama(model, 2)
    each = len(there) // 3  # products of a layer; the head comes last
    assert there == [3] * each + [2] * each + [1] * each + [0]


@torch.inference_mode()
def test_a_prompt_stays_until_its_last_answer_has_come_and_gone():
    decoder = Siblings(Llama(tiny_llama(), 4), 4)
    one, two = (1, 2, 3), (4, 5, 6, 7)
    decoder.admit([_Waiting(one, True), _Waiting(two, False)])
    assert [prompt.ids for prompt in decoder.prompts] == [one, two]
    before = decoder.step([8, 9])
    decoder.keep([1])
    assert [prompt.ids for prompt in decoder.prompts] == [two]
    decoder.keep([])
    assert [prompt.ids for prompt in decoder.prompts] == [two]  # another answer to it is yet to come
    decoder.admit([_Waiting(two, True)])
    assert decoder.keys.x.shape[1] == 2  # its keys are still those from the start
    torch.testing.assert_close(decoder.step([9]), before[1:], rtol=0, atol=1e-5)
    decoder.keep([])
    assert decoder.prompts == []


@pytest.mark.parametrize("places", [[0, 0, 1, 1], [1, 0, 1, 1], [2, 0], [0, 1, 2]])
def test_grouping_and_back_changes_nothing(places):
    rows = _Grouping.of(places, 3 if 2 in places else 2)
    x_NKGX = torch.randn(len(places), 2, 3, 5)
    grouped = rows.by_prompt(x_NKGX)
    assert grouped.shape == (rows.prompts * 2, rows.most * 3, 5)
    assert torch.equal(rows.by_row(grouped, 2), x_NKGX)
    first = grouped.unflatten(0, (rows.prompts, 2))[places[0], :, :3]  # the first sibling of its prompt
    assert torch.equal(first, x_NKGX[0])


def test_only_what_is_known_exactly_takes_the_fast_way():
    quickened = tiny_llama()
    quicken(quickened)  # as every trunk is
    assert is_llama(tiny_llama()) and is_llama(quickened)
    hooked, patched, adapted, eager, half = (tiny_llama() for _ in range(5))
    hooked.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    patched.model.norm.forward = lambda x: x
    adapted.model.layers[0].mlp.up_proj = type("Adapted", (nn.Linear,), {})(32, 64, bias=False)
    eager.config._attn_implementation = "eager"
    moving = tiny_llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    for model in (hooked, patched, adapted, eager, half.half(), moving, tiny_gpt2()):
        assert not is_llama(model)


def _llama_logits(model: PreTrainedModel, dtype: torch.dtype | None) -> torch.Tensor:
    with torch.inference_mode(), decoding(sharing(model), 2, dtype) as decoder:
        decoder.admit([_Waiting((5, 6, 7), False), _Waiting((5, 6, 7), True)])
        return decoder.step([8, 9])


@BFLOAT16
@pytest.mark.parametrize("family", ["llama", "by transformers"])
def test_bfloat16_is_near_the_model_and_not_it(family, monkeypatch):
    if family != "llama":
        monkeypatch.setattr("accord.rollout.decoding.is_llama", lambda model: False)
    model = tiny_llama()
    exact, rounded = _llama_logits(model, None), _llama_logits(model, torch.bfloat16)
    gap = (exact.log_softmax(-1) - rounded.log_softmax(-1)).abs()
    assert 1e-3 < gap.max() < 0.3 and gap.mean() < 0.05


@BFLOAT16
def test_bfloat16_samples_have_the_new_weights_and_its_own_log_probabilities():
    model, sampling = tiny_llama(), Sampling(max_new_tokens=12, seed=2)
    sampler = LocalSampler(model, RENDERER, policy_version="p", dtype=torch.bfloat16)
    mean = []
    for seed in (0, 9):
        model.load_state_dict(tiny_llama(seed=seed).state_dict())
        gaps = []
        for group in sampler.sample(PROMPTS, 3, sampling):
            head = RENDERER.prompt(group.prompt)
            for completion in group.completions:
                ids = torch.tensor([[*head, *completion.token_ids]])
                with torch.no_grad():
                    logps = model(ids).logits[0, len(head) - 1 : -1].log_softmax(-1)
                exact = logps.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
                gaps.append((exact - torch.tensor(completion.logps)).abs().mean())
        mean.append(float(torch.stack(gaps).mean()))
    assert all(1e-4 < gap < 0.05 for gap in mean)


def test_bfloat16_is_refused_where_it_makes_nothing_faster(monkeypatch):
    with pytest.raises(ConfigError, match="float32 model on a CPU, and this one is in float64 on 'cpu'"):
        LocalSampler(tiny_llama().double(), RENDERER, policy_version="p", dtype=torch.bfloat16)
    monkeypatch.setattr(local, "multiplies_bfloat16", lambda: True)
    with pytest.raises(ConfigError, match="does nothing for a GPT2LMHeadModel"):
        LocalSampler(tiny_gpt2(), RENDERER, policy_version="p", dtype=torch.bfloat16)
    monkeypatch.setattr(local, "multiplies_bfloat16", lambda: False)
    with pytest.raises(ConfigError, match="needs a processor that multiplies it"):
        LocalSampler(tiny_llama(), RENDERER, policy_version="p", dtype=torch.bfloat16)


@BFLOAT16
@pytest.mark.parametrize("name", FAST)
@torch.no_grad()
def test_a_bfloat16_model_decodes_fast_too_and_says_the_log_probs_of_its_own_forward(name: str) -> None:
    model = FAST[name]().bfloat16()
    with decoding(sharing(model), 4) as decoder:
        assert isinstance(decoder, Siblings)
    sampler = LocalSampler(model, RENDERER, policy_version="v", rows=4)
    largest = 0.0
    for group in sampler.sample(PROMPTS, 2, Sampling(1.0, 1.0, 12, 0)):
        for completion in group.completions:
            prompt_ids = RENDERER.prompt(group.prompt)
            ids = torch.tensor([[*prompt_ids, *completion.token_ids]])
            logps_TV = model(input_ids=ids).logits[0, len(prompt_ids) - 1 : -1].float().log_softmax(-1)
            own_T = logps_TV.gather(1, ids[0, len(prompt_ids) :, None])[:, 0]
            largest = max(largest, float((own_T - torch.tensor(completion.logps)).abs().max()))
    assert 0 < largest < 0.2  # bfloat16 rounds, at every product, to two or three digits
