"""The on-policy methods with vLLM (a fake one, tests/fake_vllm.py) as the sampler: they learn, weighed."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import fake_vllm
from accord.config import OnlineConfig
from accord.errors import ConfigError, NumericsError
from accord.stages import online, samplers
from printing import SCHEMAS, logged, printable, printing_config, write_world
from tiny import tiny_llama

QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online, "open_reward", lambda *_: printable)
    fake_vllm.install(monkeypatch)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def online_config(world: Path, method: str, out: Path, **changes: Any) -> OnlineConfig:
    return printing_config(world, method, out, **{"sampler": "vllm", **changes})


@pytest.mark.parametrize("lora", [{"r": 8}, None], ids=["lora", "full"])
@pytest.mark.parametrize("kind", ["colocated", "server"])
def test_the_policy_climbs_and_vllm_follows_it(
    world: Path, tmp_path: Path, kind: str, lora: dict[str, int] | None
) -> None:
    """The mismatch is that between new weights in the trainer and what vLLM was given: none."""
    free = {"kl": {"coef": 0.0}, "stop_kl": 100.0, "iterations": 5, "prompts_per_iteration": 6}
    changes = {
        **free,
        "lora": lora,
        "optim": {"learning_rate": 5e-2 if lora else 5e-3, "schedule": "constant"},
    }
    if kind == "colocated":
        online.run(online_config(world, "grpo", tmp_path, **changes), QUIET)
    else:
        mode = "processed_logprobs"
        llm = fake_vllm.LLM(str(world / "model"), dtype="float32", logprobs_mode=mode, enable_lora=bool(lora))
        with fake_vllm.serve(llm) as url:
            online.run(online_config(world, "grpo", tmp_path, vllm_server=url, **changes), QUIET)
    rows = logged(tmp_path)
    assert rows[-1]["objective/scores"] > rows[0]["objective/scores"] + 0.1
    assert rows[-1]["objective/kl"] > 0.05
    assert max(row["policy/mismatch_kl"] for row in rows) < 1e-6
    assert all(row["policy/importance_avg"] == pytest.approx(1, abs=1e-3) for row in rows)
    gc.collect()
    assert not list(tmp_path.glob(".vllm-*"))


@pytest.mark.parametrize("method", sorted(set(SCHEMAS) - {"ppo", "ppo-lagrangian"}))
def test_every_method_takes_it(world: Path, tmp_path: Path, method: str) -> None:
    online.run(online_config(world, method, tmp_path), QUIET)
    assert all(row["policy/mismatch_kl"] < 1e-6 for row in logged(tmp_path))


def test_a_sampler_that_differs_is_measured_and_corrected(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[float | None, Any] = {}
    update = online.Online.update

    def watched(self: online.Online, rollouts: Any, credit: Any, number: int) -> dict[str, float]:
        seen[self.config.importance_sampling_cap] = rollouts, credit  # type: ignore[attr-defined]
        return update(self, rollouts, credit, number)

    monkeypatch.setattr(online.Online, "update", watched)
    monkeypatch.setattr(fake_vllm.LLM, "skew", 0.15)
    rows = {}
    for cap in (1.05, None):
        out = tmp_path / str(cap)
        changes = {"iterations": 1, "epochs": 1, "minibatches": 1, "importance_sampling_cap": cap}
        online.run(online_config(world, "grpo", out, **changes), QUIET)
        (rows[cap],) = logged(out)
    (r, weighed), (again, plain) = seen[1.05], seen[None]
    torch.testing.assert_close(r.sampler_logps_CT, again.sampler_logps_CT)  # the same answers
    model, mask_CT = tiny_llama(), r.mask_CT
    answers = [(e.prompt_ids, ids) for e in r.encoded for ids in e.completion_ids]
    for row, (prompt_ids, ids) in enumerate(answers):
        with torch.no_grad():
            logits_TV = (
                model(torch.tensor([[*prompt_ids, *ids]])).logits[0, len(prompt_ids) - 1 : -1].double()
            )
        own_T = logits_TV.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
        skewed_TV = logits_TV + 0.15 * torch.cos(torch.arange(logits_TV.shape[1]).double())
        told_T = skewed_TV.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
        weights_T = (own_T - told_T).exp().clamp(max=1.05)
        expected_T = plain.advantages_CT[row, : len(ids)].double() * weights_T
        found_T = weighed.advantages_CT[row, : len(ids)].double()
        torch.testing.assert_close(found_T, expected_T, rtol=1e-4, atol=1e-5)
    ratios = (r.logps_CT - r.sampler_logps_CT)[mask_CT].exp()
    assert rows[1.05]["policy/mismatch_kl"] == pytest.approx(
        float((ratios - 1 - ratios.log()).mean()), rel=1e-4
    )
    assert rows[1.05]["policy/mismatch_kl"] > 1e-3
    assert rows[1.05]["policy/importance_clipfrac"] == pytest.approx(float((ratios >= 1.05).float().mean()))
    assert "policy/importance_avg" not in rows[None] and rows[None]["policy/mismatch_kl"] > 1e-3
    assert rows[1.05]["grad_norm"] != pytest.approx(rows[None]["grad_norm"], rel=1e-3)


def test_another_model_than_the_policy_is_refused_at_once(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_vllm.LLM, "skew", 2.0)
    with pytest.raises(
        NumericsError, match=r"differ by a KL of .* before the first update: a server must hold"
    ):
        online.run(online_config(world, "rloo", tmp_path), QUIET)
    llm = fake_vllm.LLM(str(world / "model"), dtype="float32", enable_lora=True)  # raw log-probabilities
    monkeypatch.setattr(fake_vllm.LLM, "skew", 0.0)
    with (
        fake_vllm.serve(llm) as url,
        pytest.raises(NumericsError, match="--logprobs-mode processed_logprobs"),
    ):
        online.run(online_config(world, "rloo", tmp_path, vllm_server=url, temperature=0.5), QUIET)


def test_weights_of_tokens_are_the_default_with_vllm(world: Path, tmp_path: Path) -> None:
    for method in ("grpo", "rloo", "reinforce++", "ppo"):
        cap = {name: online_config(world, method, tmp_path, sampler=name) for name in ("vllm", "local")}
        assert (cap["vllm"].importance_sampling_cap, cap["local"].importance_sampling_cap) == (2.0, None)  # type: ignore[attr-defined]
        off = online_config(world, method, tmp_path, importance_sampling_cap=None)
        assert off.importance_sampling_cap is None  # type: ignore[attr-defined]
    assert online_config(world, "xpo", tmp_path).sampler == "vllm"


def test_refusals_before_anything_is_written(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = online_config(world, "grpo", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(samplers, "world", lambda: (0, 2))
        with pytest.raises(ConfigError, match="works with one process; start a vLLM server"):
            online.run(config, QUIET)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"pip install 'accord-rlhf\[vllm\]'"):
        online.run(config, QUIET)
    assert not (tmp_path / "out").exists()
