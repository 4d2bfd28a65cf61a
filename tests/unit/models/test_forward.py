"""Log-probabilities against a float64 reference, and what architectures do to their logits."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    FalconConfig,
    FalconH1Config,
    Gemma2Config,
    GemmaConfig,
    GPT2Model,
    GraniteConfig,
    MambaConfig,
    MistralConfig,
    MptConfig,
    PreTrainedModel,
)

from accord.data.batches import collate
from accord.data.render import Encoded
from accord.errors import ConfigError, ModelError
from accord.models.forward import check_logits, hidden_states, supports_block_mask, token_logps
from tiny import tiny_gpt2, tiny_llama

GROUPS = [Encoded((1, 2, 3), ((4, 5, 6, 7), (8, 9))), Encoded((5, 5), ((6,), (1, 2, 3)))]
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}


def from_config(config: object) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("chunk", [2, 512])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_log_probabilities_and_entropies_at_a_temperature(temperature: float, chunk: int) -> None:
    model, batch = tiny_llama(), collate(GROUPS)
    hidden_FD = hidden_states(model, batch)
    logps_CT, entropy_CT = token_logps(
        model,
        hidden_FD,
        batch.where_CT,
        batch.targets_CT,
        batch.mask_CT,
        temperature=temperature,
        chunk=chunk,
        entropy=True,
    )
    for c, t in torch.cartesian_prod(*map(torch.arange, batch.mask_CT.shape)).tolist():
        if not batch.mask_CT[c, t]:
            assert logps_CT[c, t] == entropy_CT[c, t] == 0
            continue
        logits_V = model.lm_head(hidden_FD[batch.where_CT[c, t]]).double() / temperature
        p_V = logits_V.exp() / logits_V.exp().sum()
        assert logps_CT[c, t].item() == pytest.approx(p_V[batch.targets_CT[c, t]].log().item(), abs=1e-4)
        assert entropy_CT[c, t].item() == pytest.approx(-(p_V * p_V.log()).sum().item(), abs=1e-4)
    without, none = token_logps(
        model, hidden_FD, batch.where_CT, batch.targets_CT, batch.mask_CT, temperature=temperature
    )
    assert none is None
    torch.testing.assert_close(without, logps_CT)


def test_entropy_has_the_gradient_of_the_whole_distribution() -> None:
    model, batch = tiny_llama().double(), collate(GROUPS)
    hidden_FD = hidden_states(model, batch).detach().requires_grad_()
    fields = (batch.where_CT, batch.targets_CT, batch.mask_CT)
    weights_CT = torch.linspace(-1, 1, batch.mask_CT.numel()).reshape(batch.mask_CT.shape).double()
    found = (token_logps(model, hidden_FD, *fields, chunk=3, entropy=True)[1] * weights_CT).sum()
    logits = model.lm_head(hidden_FD[batch.where_CT])
    reference = torch.distributions.Categorical(logits=logits).entropy()
    expected = (reference * weights_CT * batch.mask_CT).sum()
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(value, hidden_FD)[0] for value in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_low_precision_models_get_float32_log_probabilities() -> None:
    model, batch = tiny_llama().bfloat16(), collate(GROUPS)
    fields = (batch.where_CT, batch.targets_CT, batch.mask_CT)
    hidden_FD = hidden_states(model, batch)
    logps_CT, _ = token_logps(model, hidden_FD, *fields)
    assert hidden_FD.dtype == torch.bfloat16 and logps_CT.dtype == torch.float32
    exact = model.lm_head(hidden_FD[batch.where_CT]).double().log_softmax(-1)
    exact_CT = exact.gather(-1, batch.targets_CT[..., None])[..., 0] * batch.mask_CT
    torch.testing.assert_close(logps_CT.double(), exact_CT, rtol=0, atol=1e-5)


def test_a_batch_without_a_wanted_token_is_all_zero() -> None:
    model, batch = tiny_llama(), collate(GROUPS)
    nothing_CT = torch.zeros_like(batch.mask_CT)
    logps_CT, _ = token_logps(
        model, hidden_states(model, batch), batch.where_CT, batch.targets_CT, nothing_CT
    )
    assert logps_CT.shape == nothing_CT.shape and not logps_CT.any()
    logps_CT.sum().backward()  # and it can still be a part of a loss


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_temperatures_without_a_distribution_are_refused(temperature: float) -> None:
    model, batch = tiny_llama(), collate(GROUPS)
    fields = (batch.where_CT, batch.targets_CT, batch.mask_CT)
    with pytest.raises(ConfigError, match="finite value above 0"):
        token_logps(model, hidden_states(model, batch), *fields, temperature=temperature)


def capped_gemma() -> PreTrainedModel:
    return from_config(Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=2.0, sliding_window=64))


def tiny_mamba() -> PreTrainedModel:
    shape = {name: SMALL[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers")}
    return from_config(MambaConfig(**shape, initializer_range=0.3))


SCALED = {
    "multiplied": lambda: from_config(CohereConfig(**SMALL, logit_scale=0.25)),
    "divided": lambda: from_config(GraniteConfig(**SMALL, logits_scaling=4.0)),
    "capped": capped_gemma,
}


@pytest.mark.parametrize("kind", SCALED)
def test_logits_are_what_the_architecture_makes_of_them(kind: str) -> None:
    model = SCALED[kind]()
    check_logits(model)
    batch = collate(GROUPS, shared=False)
    fields = (batch.where_CT, batch.targets_CT, batch.mask_CT)
    logps_CT, _ = token_logps(model, hidden_states(model, batch), *fields)
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7]])
    expected = model(input_ids=ids).logits[0, 2:6].log_softmax(-1)[torch.arange(4), ids[0, 3:]]
    torch.testing.assert_close(logps_CT[0], expected, rtol=0, atol=1e-5)


def test_unknown_changes_to_the_logits_are_refused() -> None:
    model = tiny_llama()
    check_logits(model)
    original = model.forward

    def forward(**inputs: object) -> object:
        out = original(**inputs)
        out.logits = out.logits * 1.5
        return out

    model.forward = forward
    with pytest.raises(ModelError, match="changes its logits in a way Accord does not know"):
        check_logits(model)
    ambiguous = tiny_llama()
    ambiguous.config.logits_scaling = 2.0
    with pytest.raises(ModelError, match=r"logits_scaling=2\.0"):
        check_logits(ambiguous)


NO_SHARING = {
    "sliding windows in every other layer": capped_gemma,
    "a sliding window everywhere": lambda: from_config(MistralConfig(**SMALL, sliding_window=4)),
    "a state space": tiny_mamba,
    "a state space beside attention": lambda: from_config(
        FalconH1Config(**SMALL, head_dim=8, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8)
    ),
    "ALiBi by choice": lambda: from_config(
        FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, alibi=True)
    ),
    "ALiBi always": lambda: from_config(MptConfig(vocab_size=64, d_model=32, n_heads=4, n_layers=1)),
}


@pytest.mark.parametrize("kind", NO_SHARING)
def test_models_with_masks_or_positions_of_their_own_share_no_rows(kind: str) -> None:
    assert not supports_block_mask(NO_SHARING[kind]())


def test_models_with_plain_attention_share_rows() -> None:
    assert supports_block_mask(tiny_llama()) and supports_block_mask(tiny_gpt2())
    assert supports_block_mask(from_config(GemmaConfig(**SMALL, head_dim=8)))
    assert supports_block_mask(from_config(MistralConfig(**SMALL, sliding_window=None)))
    flash = tiny_llama()
    flash.config._attn_implementation = "flash_attention_2"
    assert not supports_block_mask(flash)


def test_state_space_models_run_on_rows_of_their_own() -> None:
    model = from_config(
        MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, initializer_range=0.3)
    )
    batch = collate(GROUPS, shared=False)
    fields = (batch.where_CT, batch.targets_CT, batch.mask_CT)
    logps_CT, _ = token_logps(model, hidden_states(model, batch), *fields)
    ids = torch.tensor([[1, 2, 3, 8, 9]])
    expected = model(input_ids=ids).logits[0, 2:4].log_softmax(-1)[torch.arange(2), ids[0, 3:]]
    torch.testing.assert_close(logps_CT[1, :2], expected, rtol=0, atol=1e-5)
    with pytest.raises(ModelError, match="shared=False"):
        hidden_states(model, collate(GROUPS))


def test_a_model_without_a_head_is_refused() -> None:
    bare = GPT2Model(tiny_gpt2().config)
    with pytest.raises(ModelError, match="AutoModelForCausalLM"):
        hidden_states(bare, collate(GROUPS))


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_reading_after_some_layers_is_the_models_own_state_there(make: object) -> None:
    model = make(layers=3)  # type: ignore[operator]
    batch = collate([Encoded((1, 2, 3), ((4, 5, 6, 7),))])
    with torch.no_grad():
        whole = model(batch.input_ids_BL, output_hidden_states=True)
        norm = model.model.norm if hasattr(model, "model") else model.transformer.ln_f
        for layers in (1, 2):
            torch.testing.assert_close(
                hidden_states(model, batch, layers=layers), norm(whole.hidden_states[layers])[0]
            )
        assert torch.equal(hidden_states(model, batch, layers=3), hidden_states(model, batch))
        assert torch.equal(model(batch.input_ids_BL).logits, whole.logits)  # the layers are back
    for layers in (0, 4):
        with pytest.raises(ModelError, match=f"cannot be read after {layers} layers: found 3 layers"):
            hidden_states(model, batch, layers=layers)
