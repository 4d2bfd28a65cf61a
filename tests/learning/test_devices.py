"""Every stage on a stand-in for a GPU: no operation mixes devices, and the numbers are those of the CPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import accord
from accord.config import Lora
from accord.errors import ConfigError
from accord.models import device
from accord.scenarios import load_scenario
from accord.stages import online
from accord.stages.common import precision
from fake_gpu import OnGpu, fake_gpu
from tiny import tiny_llama, tiny_tokenizer

OPTIM = {"learning_rate": 1e-2, "tokens_per_microbatch": 150}
FITTED = {"optim": OPTIM, "lora": {"r": 4}, "batch_size": 4, "epochs": 1.0}
ONLINE = {"optim": OPTIM, "lora": {"r": 4}, "iterations": 2, "prompts_per_iteration": 3, "k": 2}
ONLINE |= {"max_new_tokens": 6, "reward_model": "{}/reward"}
SCRATCH = {"layers": 2, "hidden_size": 32, "heads": 2}
# case -> (stage, its data, settings; {} stands for the folder of data and models)
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "pretrain": ("pretrain", "text.txt", {"from_scratch": SCRATCH, "length": 32, "documents": "line"}),
    "sft": ("sft", "demonstrations", {**FITTED, "optim": {**OPTIM, "average_share": 0.5}}),
    "sft of all weights": ("sft", "demonstrations", {**FITTED, "lora": None}),
    "reward": ("reward", "preferences", FITTED),
    "reward that knows ties": ("reward", "preferences", {"pooling": "last+mean", "ties": "rao-kupper"}),
    "reward without a probe": ("reward", "preferences", {"probe_penalty": None, "depth": 0.5}),
    "reward of grades": ("reward", "graded", {"loss": "ordinal"}),
    "reward of rankings": ("reward", "rankings", {"loss": "plackett-luce"}),
    "reward of scores": ("reward", "scores", {"loss": "regression"}),
    "reward of steps": ("reward", "steps", {"loss": "process"}),
    "cost": ("reward", "harm", {"loss": "cost"}),
    "dpo": ("dpo", "preferences", {**FITTED, "sft_coef": 0.1}),
    "kto": ("kto", "preferences", FITTED),
    "orpo": ("orpo", "preferences", FITTED),
    "ppo": ("ppo", "prompts", ONLINE),
    "ppo with a critic in the policy": ("ppo", "prompts", {**ONLINE, "critic": "policy", "lora": None}),
    "ppo-lagrangian": ("ppo_lagrangian", "prompts", {**ONLINE, "cost_model": "{}/cost"}),
    "grpo": ("grpo", "prompts", {**ONLINE, "importance_sampling_cap": 2.0, "drop_equal_groups": True}),
    "rloo": ("rloo", "prompts", {**ONLINE, "top_p": 0.9}),
    "reinforce++": ("reinforce_plus_plus", "prompts", {**ONLINE, "ptx_data": "{}/demonstrations.jsonl"}),
    "online-dpo": ("online_dpo", "prompts", ONLINE),
    "xpo": ("xpo", "prompts", {**ONLINE, "reference": "{}/model"}),
    "sample": ("sample", "prompts", {"k": 2, "max_new_tokens": 6}),
    "best-of-n": ("best_of_n", "prompts", {"n": 3, "max_new_tokens": 6, "reward_model": "{}/reward"}),
    "eval": (
        "evaluate",
        "shop",
        {"max_new_tokens": 6, "raters": 0, "baseline": "{}/model", "reward_model": "{}/reward"},
    ),
}


def rows() -> dict[str, list[dict[str, Any]]]:
    pairs = [{"prompt": f"Say {i}.", "chosen": f"{i}! yes", "rejected": f"no {i}"} for i in range(8)]
    several = [{"prompt": r["prompt"], "completions": [r["chosen"], r["rejected"], "ok"]} for r in pairs]
    said = [{"prompt": r["prompt"], "completion": r["chosen"]} for r in pairs]
    return {
        "preferences": pairs,
        "graded": [{**row, "strength": i % 4} for i, row in enumerate(pairs)],
        "demonstrations": said,
        "prompts": [{"prompt": r["prompt"]} for r in pairs],
        "shop": [
            {"prompt": [asdict(m) for m in p.messages]} for p in load_scenario("shop").heldout_prompts[:4]
        ],
        "rankings": [{**row, "ranking": [1, 3, 2]} for row in several],
        "scores": [{**row, "score": i / 8} for i, row in enumerate(said)],
        "steps": [{**row, "labels": [True, False, True]} for row in several],
        "harm": [{**r, "chosen_unsafe": False, "rejected_unsafe": i % 2 == 0} for i, r in enumerate(pairs)],
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data of all kinds, a reward model and a cost model."""
    folder = tmp_path_factory.mktemp("world")
    tiny_llama().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    (folder / "text.txt").write_text("".join(f"{i} bottles of beer on the wall.\n" for i in range(40)))
    for name, lines in rows().items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for case in ("reward", "cost"):
        run(folder, case, folder / "made" / case)
        (folder / "made" / case / "model").rename(folder / case)
    return folder


def run(world: Path, case: str, out: Path, **changes: Any) -> dict[str, Any]:
    """The case's result, with its metrics step by step."""
    stage, data, settings = CASES[case]
    values = {k: v.format(world) if isinstance(v, str) else v for k, v in {**settings, **changes}.items()}
    values["prompts" if data in ("prompts", "shop") else "data"] = world / (
        data if "." in data else f"{data}.jsonl"
    )
    if stage != "pretrain":
        values["model"] = world / "model"
    result: dict[str, Any] = getattr(accord, stage)(quiet=True, out=out, **values)
    log = out / "metrics.jsonl"
    return {**result, "steps": [json.loads(line) for line in log.open()] if log.exists() else []}


def numbers(value: Any, name: str = "") -> dict[str, float]:
    """All numbers in a result by where they stand; none that time or rounding decides."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in numbers(item, f"{name}/{key}").items()}
    if isinstance(value, list):
        return {k: v for i, item in enumerate(value) for k, v in numbers(item, f"{name}/{i}").items()}
    other = any(part in name for part in ("seconds", "rss", "accurac", "clipfrac"))
    return {name: float(value)} if isinstance(value, (int, float)) and not other else {}


@contextmanager
def on_stand_in(wanted: str) -> Iterator[None]:
    with fake_gpu() as done:
        yield
    assert any("mm" in operation or "linear" in operation for operation in done)  # the models' products


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_stage_does_on_a_gpu_what_it_does_on_the_cpu(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    expected = numbers(run(world, case, tmp_path / "cpu"))
    monkeypatch.setattr(device, "on_device", on_stand_in)
    found = numbers(run(world, case, tmp_path / "gpu"))
    assert len(expected) > 3
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)


def test_a_run_that_began_on_the_cpu_goes_on_on_a_gpu(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"checkpoint_every": 1, "iterations": 3}
    expected = numbers(run(world, "ppo", tmp_path / "straight", **changes))
    iterate = online.Online.iterate

    def cut(self: online.Online, number: int) -> dict[str, float]:
        if number == 2:
            raise RuntimeError("power cut")
        return iterate(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(online.Online, "iterate", cut)
        with pytest.raises(RuntimeError, match="power cut"):
            run(world, "ppo", tmp_path / "moved", **changes)
    monkeypatch.setattr(device, "on_device", on_stand_in)
    moved = numbers(run(world, "ppo", tmp_path / "moved", **changes))
    assert moved == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)


def test_the_stand_in_refuses_what_a_gpu_refuses() -> None:
    with fake_gpu():
        there = torch.tensor([1.0, 2.0])
        assert isinstance(there, OnGpu) and there.tolist() == [1.0, 2.0] and float(there.sum()) == 3.0
        with pytest.raises(RuntimeError, match="tensors on two devices"):
            there + torch.ones(2, device="cpu")
        with pytest.raises(RuntimeError, match="a CPU generator"):
            torch.randperm(3, generator=torch.Generator())
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()


@pytest.mark.parametrize(
    ("wanted", "gpus", "rank", "expected"),
    [("auto", 0, "0", "cpu"), ("auto", 2, "1", "cuda:1"), ("cuda", 1, "0", "cuda:0"), ("cpu", 2, "0", "cpu")],
)
def test_each_process_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, wanted: str, gpus: int, rank: str, expected: str
) -> None:
    has(monkeypatch, gpus, rank)
    assert device.pick(wanted) == torch.device(expected)


@pytest.mark.parametrize(
    ("gpus", "rank", "message"),
    [
        (0, "0", "this torch is built without CUDA; set device to auto or cpu"),
        (1, "1", "process 2 finds none"),
    ],
)
def test_a_gpu_that_is_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch, gpus: int, rank: str, message: str
) -> None:
    has(monkeypatch, gpus, rank)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ConfigError, match=message):
        device.pick("cuda")


@pytest.mark.parametrize(
    ("dtype", "lora", "expected"),
    [("auto", None, "float32"), ("auto", Lora(), "auto"), ("bfloat16", None, "bfloat16")],
)
def test_all_weights_are_trained_in_a_precision_that_keeps_small_updates(
    dtype: str, lora: Lora | None, expected: str
) -> None:
    assert precision(dtype, lora) == expected


def has(monkeypatch: pytest.MonkeyPatch, gpus: int, rank: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_RANK", rank)
