"""One trunk, many adapters: none disturbs another, and the trunk never changes."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from accord.config import Lora
from accord.errors import ModelError
from accord.models.adapters import Trunk
from tiny import tiny_gpt2, tiny_llama

IDS = torch.tensor([[5, 9, 200, 31, 77]])


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


def disturb(trunk: Trunk, name: str, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trunk.parameters(name).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter))


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_a_fresh_adapter_changes_nothing(make: object) -> None:
    model = make()  # type: ignore[operator]
    trunk = Trunk(model)
    before = logits(model)
    trunk.add("policy", Lora(r=4), seed=0)
    with trunk.use("policy") as seen:
        assert torch.equal(logits(seen), before)


def test_adapters_do_not_disturb_each_other_or_the_trunk() -> None:
    trunk = Trunk(tiny_llama())
    with trunk.use(None) as seen:
        bare = logits(seen)
    trunk.add("policy", Lora(r=4), seed=0)
    trunk.add("reward", Lora(r=4), seed=1)
    disturb(trunk, "policy")
    with trunk.use("policy") as seen:
        policy = logits(seen)
    assert not torch.allclose(policy, bare)
    with trunk.use("reward") as seen:
        assert torch.equal(logits(seen), bare)
    disturb(trunk, "reward", seed=2)
    with trunk.use("policy") as seen:
        assert torch.equal(logits(seen), policy)
    with trunk.use(None) as seen:
        assert torch.equal(logits(seen), bare)


def test_gradients_flow_only_into_the_adapter_in_use() -> None:
    trunk = Trunk(tiny_llama())
    trunk.add("policy", Lora(r=4), seed=0)
    trunk.add("reward", Lora(r=4), seed=1)
    disturb(trunk, "reward")
    with trunk.use("policy") as seen:
        seen(IDS).logits.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trunk.parameters("policy").values())
    assert all(p.grad is None for p in trunk.parameters("reward").values())


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_a_merged_model_equals_the_adapter_and_the_trunk_stays(
    make: Callable[[], Any], dtype: torch.dtype, tolerance: float
) -> None:
    model = make().to(dtype)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    trunk = Trunk(model)
    trunk.add("policy", Lora(r=4), seed=0)
    trunk.add("reward", Lora(r=4), seed=1)
    for seed in range(3):
        disturb(trunk, "policy", seed)
        merged = trunk.merged("policy")
        with trunk.use("policy") as seen:
            torch.testing.assert_close(logits(merged), logits(seen), rtol=0, atol=tolerance)
    bare = trunk.merged(None).state_dict()
    assert bare.keys() == weights.keys() == merged.state_dict().keys()
    assert all(torch.equal(v, weights[k]) for k, v in bare.items())


@pytest.mark.parametrize("lora", [Lora(r=4, layers=0.5), None], ids=["adapter", "full"])
@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_the_weights_that_are_saved_are_those_of_the_merged_model(
    make: Callable[[], Any], lora: Lora | None, tmp_path: Path
) -> None:
    trunk = Trunk(make())
    trunk.add("policy", lora, seed=0)
    disturb(trunk, "policy")
    merged = trunk.merged("policy")
    trunk.save("policy", tmp_path, dict(trunk.weights("policy")))
    expected, found = merged.state_dict(), type(merged).from_pretrained(tmp_path).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(v, found[k]) for k, v in expected.items())


def test_a_merged_model_shares_what_the_adapter_leaves_and_goes_when_it_is_no_longer_used() -> None:
    trunk = Trunk(tiny_llama(layers=4))
    trunk.add("policy", Lora(r=4, layers=0.5), seed=0)
    disturb(trunk, "policy")
    with trunk.use("policy") as model:
        own = {parameter.data_ptr() for parameter in model.parameters()}
    merged = trunk.merged("policy")
    fresh = {n for n, p in merged.named_parameters() if p.data_ptr() not in own}
    assert fresh == {n for n in fresh if n.split(".")[2] in "23"} and len(fresh) == 2 * 7
    assert merged.lm_head.weight is merged.model.embed_tokens.weight or not merged.config.tie_word_embeddings
    seen = weakref.ref(merged.model.layers[3].mlp.up_proj.weight)
    del merged
    assert seen() is None  # at once: nothing waits for the collector of cycles


def test_layers_from_the_top() -> None:
    trunk = Trunk(tiny_llama(layers=4))
    trunk.add("policy", Lora(r=4, layers=0.5), seed=0)
    assert {name.split(".")[2] for name in trunk.parameters("policy")} == {"2", "3"}


def test_the_output_layer_gets_no_adapter() -> None:
    trunk = Trunk(tiny_llama())
    trunk.add("policy", Lora(r=4), seed=0)
    assert not any("lm_head" in name for name in trunk.parameters("policy"))


def test_a_saved_adapter_is_a_plain_peft_folder(tmp_path: Path) -> None:
    trunk = Trunk(tiny_llama())
    trunk.add("reward", Lora(r=4), seed=0)
    disturb(trunk, "reward")
    trunk.save_adapter("reward", tmp_path)
    with trunk.use("reward") as seen:
        expected = logits(seen)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(tiny_llama(), str(tmp_path))), expected)
    again = Trunk(tiny_llama())
    again.add("policy", Lora(r=2), seed=5)
    again.load("reward", tmp_path)
    with again.use("reward") as seen:
        assert torch.equal(logits(seen), expected)


def test_full_fine_tuning_is_a_copy_under_the_same_name() -> None:
    model = tiny_llama()
    trunk = Trunk(model)
    bare = logits(model)
    trunk.add("policy", None, seed=0)
    disturb(trunk, "policy")
    with trunk.use("policy") as seen:
        policy = logits(seen)
    assert not torch.allclose(policy, bare)
    with trunk.use(None) as seen:
        assert torch.equal(logits(seen), bare)
    merged = trunk.merged("policy")
    assert torch.equal(logits(merged), policy)
    assert all(a is b for a, b in zip(merged.parameters(), trunk.parameters("policy").values(), strict=True))
    del merged.model.layers[0]  # a sampler may take it apart
    with trunk.use("policy") as seen:
        assert torch.equal(logits(seen), policy)


def test_unknown_adapters_are_errors(tmp_path: Path) -> None:
    trunk = Trunk(tiny_llama())
    with pytest.raises(ModelError, match="no adapter named 'policy'"), trunk.use("policy"):
        pass
    trunk.add("policy", Lora(r=4), seed=0)
    with pytest.raises(ModelError, match="no adapter named 'reward'"):
        trunk.merged("reward")
    with pytest.raises(ModelError, match="cannot be loaded"):
        trunk.load("reward", tmp_path)


@pytest.mark.parametrize(
    ("depth", "share", "expected"),
    [(None, 0.5, {2, 3}), (3, 0.5, {1, 2}), (2, 1.0, {0, 1}), (4, 1.0, {0, 1, 2, 3})],
)
def test_adapters_lie_on_the_top_layers_that_are_read(
    depth: int | None, share: float, expected: set[int]
) -> None:
    trunk = Trunk(tiny_llama(layers=4))
    trunk.add("reward", Lora(r=2, layers=share), seed=0, depth=depth)
    assert {int(name.split(".layers.")[1].split(".")[0]) for name in trunk.parameters("reward")} == expected


def test_threads_share_an_adapter_and_wait_for_another() -> None:
    trunk = Trunk(tiny_llama())
    for seed, name in enumerate(("policy", "reward")):
        trunk.add(name, Lora(r=2), seed=seed)
        disturb(trunk, name, seed)
    expected = {}
    for name in ("policy", "reward", None):
        with trunk.use(name) as model:
            expected[name] = logits(model)

    def seen(name: str | None) -> bool:
        with trunk.use(name) as model:
            return torch.equal(logits(model), expected[name])

    names = ["policy", "reward", None, "policy", None, "reward"] * 20
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(seen, names))
    together = threading.Barrier(2, timeout=20)

    def meet() -> None:
        with trunk.use("policy"):
            together.wait()

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(meet), pool.submit(meet)]:
            future.result()


def test_one_thread_cannot_be_in_two_adapters() -> None:
    trunk = Trunk(tiny_llama())
    for name in ("policy", "reward"):
        trunk.add(name, Lora(r=2), seed=0)
    with (
        trunk.use("policy"),
        trunk.use("policy"),
        pytest.raises(ModelError, match="'reward' is wanted while adapter 'policy' is in use"),
        trunk.use("reward"),
    ):
        pass
    with (
        trunk.use("reward"),
        pytest.raises(ModelError, match="the bare trunk is wanted while adapter 'reward'"),
        trunk.use(None),
    ):
        pass
