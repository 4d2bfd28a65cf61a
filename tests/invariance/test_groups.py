"""A group in one row gives the numbers of separate rows: the claim that everything else rests on.

The oracle shares no code with the package: one completion at a time, unpadded, through the model's own
forward pass, which builds its own mask, its own positions and all logits.
"""

from __future__ import annotations

from dataclasses import replace
from types import MethodType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from accord.data.batches import GroupBatch, Segment, collate, plan
from accord.data.render import Encoded
from accord.errors import ModelError
from accord.models.forward import hidden_states, supports_block_mask, token_logps
from tiny import VOCAB, tiny_gpt2, tiny_llama, tiny_qwen

FACTORIES = {"llama": tiny_llama, "qwen2": tiny_qwen, "gpt2": tiny_gpt2}
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


@pytest.fixture(params=FACTORIES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return FACTORIES[request.param]()


def cast(model: PreTrainedModel, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """The model in `dtype` throughout: RMSNorm would otherwise round to float32 in the middle of float64."""

    def norm(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        return module.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = MethodType(norm, module)
    return model.to(dtype)


def separate(model: PreTrainedModel, groups: list[Encoded]) -> torch.Tensor:
    """Summed log-probability of each completion, each in a forward pass of its own."""
    sums = []
    for group in groups:
        for completion in group.completion_ids:
            ids = torch.tensor([[*group.prompt_ids, *completion]])
            logps = torch.log_softmax(model(input_ids=ids).logits[0, :-1], dim=-1)
            picked = logps[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
            sums.append(picked[len(group.prompt_ids) - 1 :].sum())
    return torch.stack(sums)


def ours(model: PreTrainedModel, batch: GroupBatch, **options: int) -> torch.Tensor:
    hidden_FD = hidden_states(model, batch)
    logps_CT, _ = token_logps(model, hidden_FD, batch.where_CT, batch.targets_CT, batch.mask_CT, **options)
    return logps_CT.sum(1)


def gradients(model: PreTrainedModel, sums_C: torch.Tensor, weights_C: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    (sums_C * weights_C).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def group(prompt: int, *lengths: int, seed: int = 0) -> Encoded:
    draw = torch.Generator().manual_seed(seed)
    ids = [tuple(torch.randint(VOCAB, (n,), generator=draw).tolist()) for n in (prompt, *lengths)]
    return Encoded(ids[0], tuple(ids[1:]))


MIXED = [
    group(9, 5, 1, 7, 3, seed=1),
    group(1, 4, seed=2),
    group(4, 6, 6, seed=3),
    group(12, 2, 2, 2, 8, 1, seed=4),
]
COMPLETIONS = sum(len(g.completion_ids) for g in MIXED)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_sums_and_gradients_equal_separate_forward_passes(
    model: PreTrainedModel, dtype: torch.dtype, shared: bool
) -> None:
    cast(model, dtype)
    weights_C = torch.linspace(-1, 1, COMPLETIONS, dtype=dtype)
    batch = collate(MIXED, shared=shared)
    expected, found = separate(model, MIXED), ours(model, batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[dtype])

    expected_grad = gradients(model, expected, weights_C)
    scale = expected_grad.abs().max().item()
    torch.testing.assert_close(
        gradients(model, found, weights_C), expected_grad, rtol=0, atol=TOLERANCE[dtype] * max(1, scale)
    )
    assert scale > 0.1  # the comparison is about something


def test_the_batch_above_really_shares_a_row() -> None:
    assert len(collate(MIXED).input_ids_BL) == 1
    assert len(collate(MIXED, shared=False).input_ids_BL) == COMPLETIONS


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_chunk_size_changes_neither_values_nor_gradients(model: PreTrainedModel, chunk: int) -> None:
    cast(model)
    batch, weights_C = collate(MIXED), torch.linspace(-1, 1, COMPLETIONS, dtype=torch.float64)
    expected = separate(model, MIXED)
    found = ours(model, batch, chunk=chunk)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    expected_grad = gradients(model, expected, weights_C)
    torch.testing.assert_close(gradients(model, found, weights_C), expected_grad, rtol=1e-9, atol=1e-8)


def test_eager_attention_has_rows_of_its_own_and_gives_the_same(model: PreTrainedModel) -> None:
    cast(model)
    expected = separate(model, MIXED)
    model.set_attn_implementation("eager")
    assert not supports_block_mask(model)
    # Eager attention computes its softmax in float32 whatever the model's dtype.
    found = ours(model, collate(MIXED, shared=False))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_lora_layers_take_part_in_values_and_gradients() -> None:
    model = cast(tiny_llama())
    lora = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    lora = lora.double().eval()
    weights_C = torch.linspace(-1, 1, COMPLETIONS, dtype=torch.float64)
    expected = separate(lora, MIXED)
    expected_grad = gradients(lora, expected, weights_C)
    for handle in (lora, lora.get_base_model()):  # a PeftModel, or the model with injected layers
        found = ours(handle, collate(MIXED))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(gradients(lora, found, weights_C), expected_grad, rtol=0, atol=1e-8)
    with lora.disable_adapter():
        assert (ours(lora, collate(MIXED)) - expected).abs().max() > 0.1


groups_strategy = st.lists(
    st.builds(
        lambda prompt, lengths, seed: group(prompt, *lengths, seed=seed),
        st.integers(1, 12),
        st.lists(st.integers(1, 9), min_size=1, max_size=6),
        st.integers(0, 10_000),
    ),
    min_size=1,
    max_size=4,
)
MODELS = {name: cast(factory()) for name, factory in FACTORIES.items()}


@settings(max_examples=40, deadline=None)
@given(groups=groups_strategy, name=st.sampled_from(sorted(MODELS)), shared=st.booleans())
@torch.no_grad()
def test_any_shape_equals_separate_forward_passes(groups: list[Encoded], name: str, shared: bool) -> None:
    found = ours(MODELS[name], collate(groups, shared=shared))
    torch.testing.assert_close(found, separate(MODELS[name], groups), rtol=0, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(groups=groups_strategy, tokens=st.integers(1, 120), data=st.data())
@torch.no_grad()
def test_neither_order_nor_micro_batches_nor_siblings_change_a_completion(
    groups: list[Encoded], tokens: int, data: st.DataObject
) -> None:
    model = MODELS["llama"]
    expected = {
        (g, ids): value
        for (g, ids), value in zip(
            [(g, ids) for g, e in enumerate(groups) for ids in e.completion_ids],
            ours(model, collate(groups)),
            strict=True,
        )
    }
    shuffled = [Encoded(e.prompt_ids, tuple(data.draw(st.permutations(e.completion_ids)))) for e in groups]
    for batch in plan(shuffled, tokens):
        found = ours(model, collate([shuffled[g] for g in batch]))
        keys = [(g, ids) for g in batch for ids in shuffled[g].completion_ids]
        for key, value in zip(keys, found, strict=True):
            torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-9)


def test_extra_padding_changes_nothing(model: PreTrainedModel) -> None:
    cast(model)
    alone = ours(model, collate(MIXED[:1]))
    beside_a_long_one = ours(model, collate([MIXED[0], group(150, 3, seed=9)]))
    torch.testing.assert_close(beside_a_long_one[:4], alone, rtol=0, atol=1e-9)


def test_no_hidden_state_is_nan_even_at_padding(model: PreTrainedModel) -> None:
    batch = collate(MIXED, shared=False)
    assert not batch.real_BL.all()
    assert hidden_states(model, batch).isfinite().all()


@pytest.mark.parametrize("fault", ["siblings are seen", "positions run on", "prompt is hidden"])
def test_the_comparison_notices_a_wrong_row(model: PreTrainedModel, fault: str) -> None:
    batch = collate(MIXED)
    expected = separate(model, MIXED)
    if fault == "siblings are seen":
        whole = tuple(Segment(len(g.prompt_ids) + sum(map(len, g.completion_ids))) for g in MIXED)
        batch = replace(batch, segments=whole)
    elif fault == "positions run on":
        batch.position_ids_BL.copy_(torch.arange(batch.input_ids_BL.shape[1]))
    else:
        batch = replace(batch, segments=tuple(Segment(s.length) for s in batch.segments))
    assert (ours(model, batch) - expected).abs().max() > 0.05


def test_a_sliding_window_model_gets_rows_of_its_own() -> None:
    model = tiny_qwen(use_sliding_window=True, sliding_window=4, max_window_layers=0)
    cast(model)
    assert not supports_block_mask(model)
    found = ours(model, collate(MIXED, shared=False))
    torch.testing.assert_close(found, separate(model, MIXED), rtol=0, atol=1e-9)
    with pytest.raises(ModelError, match="shared=False"):
        ours(model, collate(MIXED))
