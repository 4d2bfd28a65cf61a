"""The vLLM sampler against a fake of vLLM with a real model behind it, in this process and over HTTP."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

import fake_vllm
from accord.config import Lora
from accord.data.render import Renderer
from accord.errors import ConfigError, DataError, ModelError, NumericsError
from accord.models.adapters import Trunk
from accord.records import Completion, Group, Prompt, Sampling
from accord.rollout.sampler import Sampler
from accord.rollout.vllm import Colocated, Server, VllmSampler, import_vllm, lora_rank
from tiny import tiny_llama, tiny_tokenizer

RENDERER = Renderer(tiny_tokenizer())
PROMPTS = [Prompt.of("Which watch?"), Prompt.of("And the price of it, please?"), Prompt.of("Hi")]
SAMPLING = Sampling(temperature=0.8, max_new_tokens=10, seed=5)
END, EOS = 258, 256


@pytest.fixture(scope="module")
def base() -> Iterator[TemporaryDirectory[str]]:
    folder: TemporaryDirectory[str] = TemporaryDirectory()
    tiny_llama().save_pretrained(folder.name)
    yield folder
    folder.cleanup()


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)


def colocated(base: TemporaryDirectory[str], rank: int | None = None, **changes: Any) -> Colocated:
    how = {"dtype": "float32", "memory": 0.3, "rows": 4, "raw": False, "sleep": True}
    return Colocated(base, rank=rank, **(how | changes))


def sampler(served: Any, folder: Path) -> Any:
    return VllmSampler(served, tiny_llama(), RENDERER, policy_version="p0", folder=folder)


@pytest.fixture(params=["colocated", "server"])
def of_kind(request: pytest.FixtureRequest, base: TemporaryDirectory[str], tmp_path: Path) -> Iterator[Any]:
    """Makes a sampler for adapters of a rank (or whole models) on either kind of vLLM."""
    open_servers = []

    def make(rank: int | None = None) -> Any:
        if request.param == "colocated":
            it = sampler(colocated(base, rank), tmp_path)
            it.llm = it.served.llm
            return it
        llm = fake_vllm.LLM(
            base.name, dtype="float32", logprobs_mode="processed_logprobs", enable_lora=rank is not None
        )
        server = fake_vllm.serve(llm)
        open_servers.append(server)
        it = sampler(Server(server.__enter__(), adapter=rank is not None, at_once=3), tmp_path)
        it.llm = llm
        return it

    yield make
    for server in open_servers:
        server.__exit__(None, None, None)


def completions(groups: list[Group]) -> list[Completion]:
    return [c for group in groups for c in group.completions]


def logps_of(model: Any, prompt: Prompt, c: Completion, temperature: float) -> torch.Tensor:
    """Each token's log-probability, by a plain forward pass."""
    prompt_ids = RENDERER.prompt(prompt)
    with torch.no_grad():
        logits_TV = model(torch.tensor([[*prompt_ids, *c.token_ids]])).logits[0, len(prompt_ids) - 1 : -1]
    return (
        (logits_TV.double() / temperature).log_softmax(-1).gather(1, torch.tensor(c.token_ids)[:, None])[:, 0]
    )


def assert_samples_of(model: Any, groups: list[Group], temperature: float = 0.8) -> None:
    for group in groups:
        for c in group.completions:
            expected_T = logps_of(model, group.prompt, c, temperature)
            torch.testing.assert_close(torch.tensor(c.logps).double(), expected_T, rtol=0, atol=2e-3)


def moved_trunk(lora: Lora | None) -> tuple[Trunk, Any]:
    """A trunk whose policy has left its start, and a plain model with the same weights."""
    trunk = Trunk(tiny_llama())
    trunk.add("policy", lora, seed=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trunk.parameters("policy").values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return trunk, trunk.merged("policy")


def test_records_are_complete_and_in_order(of_kind: Any) -> None:
    it: Sampler = of_kind()
    seen: list[tuple[int, int]] = []
    prompts = [*PROMPTS, PROMPTS[0]]
    groups = it.sample(prompts, 3, SAMPLING, on_progress=lambda *at: seen.append(at))
    assert [group.prompt for group in groups] == prompts and groups[0] == groups[3]
    assert seen[-1] == (9, 9) and seen == sorted(seen)
    for group in groups:
        assert [c.index for c in group.completions] == [0, 1, 2]
        for c in group.completions:
            assert (c.prompt_id, c.policy_version, c.sampling) == (group.prompt.id, "p0", SAMPLING)
            assert c.text == RENDERER.text(c.token_ids)
    assert len({c.token_ids for c in completions(groups[:3])}) == 9
    assert_samples_of(tiny_llama(), groups)


def test_both_kinds_draw_the_same_answers(base: TemporaryDirectory[str], tmp_path: Path) -> None:
    llm = fake_vllm.LLM(base.name, dtype="float32", logprobs_mode="processed_logprobs")
    with fake_vllm.serve(llm) as url:
        there = sampler(Server(url, adapter=False, at_once=2), tmp_path).sample(PROMPTS, 3, SAMPLING)
    assert there == sampler(colocated(base), tmp_path).sample(PROMPTS, 3, SAMPLING)


def test_an_answer_belongs_to_its_seed_prompt_and_index(
    base: TemporaryDirectory[str], tmp_path: Path
) -> None:
    it = sampler(colocated(base), tmp_path)
    few, many = it.sample(PROMPTS, 2, SAMPLING), it.sample(PROMPTS[::-1], 4, SAMPLING)[::-1]
    assert [g.completions for g in few] == [g.completions[:2] for g in many]
    other = it.sample(PROMPTS, 2, Sampling(temperature=0.8, max_new_tokens=10, seed=6))
    assert not {c.token_ids for c in completions(few)} & {c.token_ids for c in completions(other)}


@pytest.mark.parametrize("end", [END, EOS, 70])
def test_stops_at_every_end_token_and_keeps_it(of_kind: Any, end: int) -> None:
    it = of_kind()
    it.model.generation_config.eos_token_id = [EOS, 70]
    it.llm.base.lm_head.register_forward_hook(
        lambda module, inputs, output: output + 5.0 * (torch.arange(output.shape[-1]) == end)
    )
    done = completions(it.sample(PROMPTS, 8, Sampling(max_new_tokens=10)))
    stopped = [c for c in done if c.finish_reason == "stop"]
    assert stopped and any(c.token_ids[-1] == end for c in stopped)
    for c in done:
        assert (c.token_ids[-1] in (END, EOS, 70)) == (c.finish_reason == "stop")
        assert not {END, EOS, 70} & set(c.token_ids[:-1])
        assert c.finish_reason == "stop" or len(c.token_ids) == 10


@pytest.mark.parametrize("lora", [None, Lora(r=2), Lora(r=3, layers=0.5)], ids=["full", "lora", "top layers"])
def test_after_a_refresh_samples_come_from_the_new_weights(of_kind: Any, lora: Lora | None) -> None:
    it, drawn = of_kind(None if lora is None else lora.r), []
    for version in ("p1", "p2"):
        trunk, model = moved_trunk(lora)
        if version == "p2":
            with torch.no_grad():
                next(iter(trunk.parameters("policy").values())).mul_(-1)
            model = trunk.merged("policy")
        it.refresh(trunk, "policy", version)
        after = it.sample(PROMPTS, 3, SAMPLING)
        assert {c.policy_version for c in completions(after)} == {version}
        assert_samples_of(model, after)
        gaps = [
            abs(torch.tensor(c.logps) - logps_of(tiny_llama(), g.prompt, c, 0.8)).max()
            for g in after
            for c in g.completions
        ]
        assert max(gaps) > 0.1  # else the two models could not be told apart
        drawn.append([c.token_ids for c in completions(after)])
    assert drawn[0] != drawn[1]


def test_weights_of_one_version_are_sent_once_and_do_not_pile_up(
    base: TemporaryDirectory[str], tmp_path: Path
) -> None:
    it = sampler(colocated(base), tmp_path)
    trunk, _ = moved_trunk(None)
    for version in ("p1", "p1", "p2"):
        it.refresh(trunk, "policy", version)
    assert it.served.llm.calls.count("reload_weights") == 2
    assert len(list(tmp_path.glob(".vllm-*"))) == 1


def test_the_gpu_is_given_back_between_samplings(base: TemporaryDirectory[str], tmp_path: Path) -> None:
    it = sampler(colocated(base), tmp_path)
    assert it.served.llm.asleep
    it.sample(PROMPTS, 1, SAMPLING)
    assert it.served.llm.asleep
    it.refresh(moved_trunk(None)[0], "policy", "p1")
    assert it.served.llm.asleep
    awake = sampler(colocated(base, sleep=False), tmp_path)
    awake.sample(PROMPTS, 1, SAMPLING)
    assert not awake.served.llm.calls


def test_settings_reach_the_engine(base: TemporaryDirectory[str]) -> None:
    llm = colocated(base, 10, memory=0.4, rows=7).llm
    assert (llm.gpu_memory_utilization, llm.max_num_seqs, llm.dtype) == (0.4, 7, "float32")
    assert (llm.enable_lora, llm.max_loras, llm.max_lora_rank) == (True, 1, 16)
    assert not colocated(base).llm.enable_lora
    assert [lora_rank(r) for r in (1, 8, 9, 512)] == [8, 8, 16, 512]
    with pytest.raises(ConfigError, match=r"lora.r is 513"):
        lora_rank(513)


def test_greedy_and_the_nucleus_record_what_the_update_needs(
    base: TemporaryDirectory[str], tmp_path: Path
) -> None:
    greedy = Sampling(temperature=0.0, max_new_tokens=6)
    (group,) = sampler(colocated(base), tmp_path).sample(PROMPTS[:1], 2, greedy)
    assert group.completions[0].token_ids == group.completions[1].token_ids
    assert_samples_of(tiny_llama(), [group], temperature=1.0)
    nucleus = Sampling(temperature=1.0, top_p=0.5, max_new_tokens=6)
    it = sampler(colocated(base, raw=True), tmp_path)
    assert_samples_of(tiny_llama(), it.sample(PROMPTS, 2, nucleus), temperature=1.0)
    with pytest.raises(ConfigError, match=r"top_p 0.5 at temperature 0.7.*set top_p or temperature to 1"):
        it.sample(PROMPTS, 1, Sampling(temperature=0.7, top_p=0.5))


def test_refusals(base: TemporaryDirectory[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = sampler(colocated(base), tmp_path)
    assert it.sample([], 4, SAMPLING) == []
    with pytest.raises(ConfigError, match="k is 0"):
        it.sample(PROMPTS, 0, SAMPLING)
    with pytest.raises(DataError, match="exceeds the model's context of 1024"):
        it.sample([Prompt.of("x" * 1100)], 1, SAMPLING)
    monkeypatch.setattr(fake_vllm.LLM, "skew", float("nan"))
    monkeypatch.setattr(torch, "multinomial", lambda *_, **__: torch.tensor([1]))
    with pytest.raises(NumericsError, match=r"policy 'p0' to prompt .* not finite"):
        it.sample(PROMPTS, 1, SAMPLING)

    def no_memory(self: fake_vllm.LLM) -> None:
        raise ValueError("No memory for the cache")

    monkeypatch.setattr(fake_vllm.LLM, "__post_init__", no_memory)
    with pytest.raises(ModelError, match=r"No memory for the cache.*--vllm_memory \(0.3\)"):
        colocated(base)


def test_without_vllm_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(
        ConfigError, match=r"pip install 'accord-rlhf\[vllm\]'.*--vllm_server.*sampler: local"
    ):
        import_vllm()


def test_a_server_that_is_not_there_or_refuses(base: TemporaryDirectory[str], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"127.0.0.1:9/v1/models: no vLLM server answers.*--vllm_server"):
        Server("http://127.0.0.1:9", adapter=False, at_once=1)
    with fake_vllm.serve(fake_vllm.LLM(base.name, dtype="float32")) as url:
        it = sampler(Server(url, adapter=True, at_once=1), tmp_path)
        with pytest.raises(ModelError, match=r"refused \(404: .*accord-policy|no such route.*docs/vllm.md"):
            it.sample(PROMPTS, 1, SAMPLING)  # no adapter was loaded


def test_the_real_vllm_samples_the_policys_own_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that has it: log-probabilities agree, and follow the weights."""
    monkeypatch.undo()
    pytest.importorskip("vllm", reason="vLLM is not installed here")
    tokenizer = tiny_tokenizer()
    big = {"hidden": 256, "intermediate_size": 512, "initializer_range": 0.05}  # kernels want heads of 64
    model = tiny_llama(**big)
    base: TemporaryDirectory[str] = TemporaryDirectory(dir=tmp_path)
    model.save_pretrained(base.name)
    tokenizer.save_pretrained(base.name)
    served = colocated(base, sleep=torch.cuda.is_available())
    it = VllmSampler(served, model, RENDERER, policy_version="p0", folder=tmp_path)
    for version in ("p0", "p1"):
        trunk = Trunk(tiny_llama(seed=int(version[1]), **big))
        trunk.add("policy", None, seed=0)
        it.refresh(trunk, "policy", version)
        plain = trunk.merged("policy")
        for group in it.sample(PROMPTS, 4, SAMPLING):
            for c in group.completions:
                gap = torch.tensor(c.logps).double() - logps_of(plain, group.prompt, c, 0.8)
                assert gap.abs().mean() < 0.01
