"""Two processes do what one does: the same parameters, the same metrics, and they end together.

Float64 shows that the sums are exact: the only difference is the order of adding. In float32 the same
difference is larger, and AdamW's division by a gradient near 0 would blow it up: hence its larger epsilon.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import accord
from accord.training import checkpoint
from accord.training.engine import Engine
from tiny import tiny_llama, tiny_tokenizer

WORKER = str(Path(__file__).with_name("process_worker.py"))
TOLERANCE = {"float64": 1e-12, "float32": 1e-6}
# `tokens` makes 4 to 6 micro-batches of unequal size a step, or a single one, which leaves a process idle.
CASES = {
    "sft-float64": {"stage": "sft", "dtype": "float64"},
    "sft-float32": {"stage": "sft", "dtype": "float32"},
    "sft-idle": {"stage": "sft", "dtype": "float64", "tokens": 4096},
    "sft-lora": {"stage": "sft", "dtype": "float64", "lora": {"r": 2, "layers": 0.5}},
    "reward-float32": {"stage": "reward", "dtype": "float32"},
    "ppo-float32": {"stage": "ppo", "dtype": "float32"},
    "dpo-float64": {"stage": "dpo", "dtype": "float64"},
    "kto-float64": {"stage": "kto", "dtype": "float64"},
    "grpo-float32": {"stage": "grpo", "dtype": "float32"},
    "rloo-float32": {"stage": "rloo", "dtype": "float32"},
    "online-dpo-float32": {"stage": "online_dpo", "dtype": "float32"},
    "pretrain-float64": {"stage": "pretrain", "dtype": "float64"},
}
# Layers split over the processes (FSDP2); `tokens` as above.
LORA = {"lora": {"r": 2}, "dtype": "float64"}
SPLIT = {
    "split-sft": {"stage": "sft", **LORA},
    "split-sft-odd": {"stage": "sft", **LORA, "tokens": 96},
    "split-sft-idle": {"stage": "sft", **LORA, "tokens": 4096},
    "split-sft-upper": {"stage": "sft", **LORA, "lora": {"r": 2, "layers": 0.5}},
    "split-dpo": {"stage": "dpo", **LORA},
    "split-kto": {"stage": "kto", **LORA},
    "split-reward": {"stage": "reward", **LORA, "depth": 0.5},
    "split-float32": {"stage": "dpo", "lora": {"r": 2}, "dtype": "float32"},
}
SPLITTING = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}  # as `accelerate launch` says it
HALF_WAY = {"sft-float64": 2, "grpo-float32": 8}  # optimiser steps until the checkpoint at step 2
OWN = {
    "sft": {"data": "demonstrations.jsonl", "epochs": 0.75, "batch_size": 6, "lora": None},
    "reward": {"data": "preferences.jsonl", "epochs": 1, "batch_size": 6, "held_out": 0.25},
    "dpo": {"data": "preferences.jsonl", "epochs": 0.75, "batch_size": 5, "held_out": 0.2, "lora": None},
    "pretrain": {"data": "texts.jsonl", "epochs": 1, "batch_size": 2, "length": 64, "held_out": 0.0},
    "ppo": {
        "prompts": "prompts.jsonl",
        "reward_model": "rm/model",
        "iterations": 3,
        "prompts_per_iteration": 3,
        "k": 2,
        "max_new_tokens": 8,
    },
}
OWN["kto"] = OWN["dpo"]  # the chosen answers are good, the rejected ones bad
ONLINE = ("ppo", "grpo", "rloo", "online_dpo")
OWN |= dict.fromkeys(ONLINE, OWN["ppo"])


def job(world: Path, out: str, stage: str, tokens: int = 64, **settings: Any) -> dict[str, Any]:
    files = {k: str(world / v) for k, v in OWN[stage].items() if k in ("data", "prompts", "reward_model")}
    optim = {
        "learning_rate": 1e-3,
        "adam_epsilon": 1e-3,
        "max_grad_norm": 1e3,
        "weight_decay": 0.1,
        "tokens_per_microbatch": tokens,
    }
    common = {"model": str(world / "model"), "out": str(world / out), "seed": 3, "checkpoint_every": 2}
    return {"stage": stage, **common, "optim": optim, **OWN[stage], **files, **settings}


def alone(settings: dict[str, Any]) -> None:
    rest = dict(settings)
    getattr(accord, rest.pop("stage"))(quiet=True, **rest)


def in_two(*arguments: str, **environment: str) -> list[tuple[int, str]]:
    """Run the worker in two processes, without torchrun in between: exit status and stderr of both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    both = [
        subprocess.Popen(
            [sys.executable, WORKER, *arguments],
            env={**os.environ, **environment, **address, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        messages = [process.communicate(timeout=400)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    return [(process.returncode, said) for process, said in zip(both, messages, strict=True)]


def accord_says(stderr: str) -> list[str]:
    """What the processes said; the other one's progress bar may stand before it in the same line."""
    return re.findall(r"accord: .*", stderr)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases, done by one process (NAME) and by two (NAME-2); runs stopped half-way and gone on with."""
    folder = tmp_path_factory.mktemp("world")
    tiny_llama().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    answers = [f"{i}! " + "yes " * (i * 7 % 9 + 1) for i in range(24)]
    lines = {
        "demonstrations": [{"prompt": f"Say {i}.", "completion": a} for i, a in enumerate(answers)],
        "preferences": [
            {"prompt": f"Say {i}.", "chosen": a, "rejected": f"no {i}"} for i, a in enumerate(answers)
        ],
        "prompts": [{"prompt": f"Say {i}."} for i in range(24)],
        "texts": [{"text": a} for a in answers[:12]],
    }
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    alone(job(folder, "rm", "reward"))
    for name, case in CASES.items():
        alone(job(folder, name, **case))
    work = [job(folder, f"{name}-2", **case) for name, case in CASES.items()]
    for name, steps in HALF_WAY.items():
        stop_alone(job(folder, f"{name}-one-then-two", **CASES[name]), steps)
        work.append(job(folder, f"{name}-one-then-two", **CASES[name]))
        work.append(job(folder, f"{name}-two-then-one", **CASES[name]) | {"stop_after": steps})
    (folder / "jobs.json").write_text(json.dumps(work))
    done = in_two("jobs", str(folder / "jobs.json"))
    assert [status for status, _ in done] == [0, 0], done
    return folder


@pytest.fixture(scope="module")
def split_world(world: Path) -> Path:
    """The cases of `SPLIT`, done by one process and by two that split the layers; one is left half-way."""
    for name, case in SPLIT.items():
        alone(job(world, name, **case))
    work = [job(world, f"{name}-2", **case) for name, case in SPLIT.items()]
    work.append(job(world, "split-then-one", **SPLIT["split-dpo"]) | {"stop_after": 2})
    (world / "split.json").write_text(json.dumps(work))
    done = in_two("jobs", str(world / "split.json"), **SPLITTING)
    assert [status for status, _ in done] == [0, 0], done
    return world


def stop_alone(settings: dict[str, Any], steps: int) -> None:
    """A run in one process that ends after so many optimiser steps."""
    own, done = Engine.step, []

    def step(self: Engine, *args: Any, **kwargs: Any) -> dict[str, float]:
        if len(done) == steps:
            raise KeyboardInterrupt
        done.append(1)
        return own(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "step", step)
        with pytest.raises(KeyboardInterrupt):
            alone(settings)


def weights(out: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted((out / "model").glob("*.safetensors")):
        found |= load_file(path)
    assert found
    return found


def logged(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def assert_same_run(left: Path, right: Path, tolerance: float) -> None:
    first, second = weights(left), weights(right)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=tolerance, atol=tolerance, msg=name)
    assert len(logged(left)) == len(logged(right)) == 3
    for before, after in zip(logged(left), logged(right), strict=True):
        explained = [row.pop("val/explained_variance", 0.0) for row in (before, after)]
        assert after == pytest.approx(before, rel=10 * tolerance, abs=10 * tolerance)
        # One minus a quotient of two variances, the lower one nearly 0 here: rounding is blown up.
        assert 1 - explained[1] == pytest.approx(1 - explained[0], rel=1000 * tolerance)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_learns(world: Path, name: str) -> None:
    trained = weights(world / name)
    start = {k: v.double() for k, v in weights_of_start(world).items() if k in trained}
    moved = max((float((trained[k] - v).abs().max()) for k, v in start.items()), default=1.0)
    assert moved > 1e-4  # else equality would mean nothing
    assert_same_run(world / name, world / f"{name}-2", TOLERANCE[str(CASES[name]["dtype"])])


@pytest.mark.parametrize("name", SPLIT)
def test_processes_that_split_the_layers_learn_what_one_learns(split_world: Path, name: str) -> None:
    trained, start = weights(split_world / name), weights_of_start(split_world)
    moved = [float((trained[k] - v).abs().max()) for k, v in start.items() if k in trained]
    assert max(moved, default=1.0) > 1e-4  # a reward model keeps an adapter, which began at 0
    assert_same_run(split_world / name, split_world / f"{name}-2", TOLERANCE[str(SPLIT[name]["dtype"])])


def test_each_process_keeps_half_of_every_layer(split_world: Path) -> None:
    told = [json.loads((split_world / f"split.json.kept-{rank}").read_text()) for rank in range(2)]
    assert len(told[0]) == len(told[1]) == len(SPLIT) + 1
    for (own, all_of_it), (other, same) in zip(*told, strict=True):
        assert own + other == all_of_it == same and own == other > 0


def test_one_process_goes_on_with_what_split_ones_began(split_world: Path) -> None:
    begun = split_world / "split-then-one"
    assert checkpoint.steps(begun / "checkpoints") == [2] and not (begun / "model").exists()
    alone(job(split_world, begun.name, **SPLIT["split-dpo"]))
    assert_same_run(split_world / "split-dpo", begun, 1e-12)


def test_what_cannot_be_split_says_so(world: Path, tmp_path: Path) -> None:
    whole = [*command(world, tmp_path / "out"), "--lora", "null"]
    online = ["grpo", "--model", str(world / "model"), "--prompts", str(world / "prompts.jsonl")]
    rewarded = ["--reward_model", str(world / "rm" / "model"), "--out", str(tmp_path / "online")]
    for arguments, message in (
        (whole, "without lora all of them learn"),
        ([*online, *rewarded], "grpo samples from the policy while it learns"),
    ):
        done = in_two("main", *arguments, **SPLITTING)
        assert [status for status, _ in done] == [2, 2]
        said = [line for _, stderr in done for line in accord_says(stderr)]
        assert said and all(message in line for line in said), done  # two, where both failed at once


def test_ktos_baseline_was_not_zero(world: Path) -> None:
    """Else it would not matter over which answers it is taken: processes share the rows, not this mean."""
    assert logged(world / "kto-float64")[-1]["kl"] > 1e-3


def weights_of_start(world: Path) -> dict[str, torch.Tensor]:
    return load_file(world / "model" / "model.safetensors")


@pytest.mark.parametrize("name", HALF_WAY)
def test_another_number_of_processes_goes_on(world: Path, name: str) -> None:
    begun = world / f"{name}-two-then-one"
    assert checkpoint.steps(begun / "checkpoints") == [2]
    assert not (begun / "model").exists()
    alone(job(world, begun.name, **CASES[name]))
    for other in (f"{name}-one-then-two", begun.name):
        assert_same_run(world / name, world / other, TOLERANCE[str(CASES[name]["dtype"])])


def test_each_process_samples_its_share(world: Path) -> None:
    shares = [json.loads((world / f"jobs.json.sampled-{rank}").read_text()) for rank in range(2)]
    online = [case for case in CASES.values() if case["stage"] in ONLINE]
    assert len(shares[0]) == len(shares[1]) >= 3 * len(online)
    assert all((own, other) == (2, 1) for own, other in zip(*shares, strict=True))


@pytest.mark.parametrize("name, shipped", [("sft-float64", "processes"), ("split-sft", "fsdp2")])
def test_accelerate_starts_them_too(split_world: Path, name: str, shipped: str) -> None:
    """With the configurations that are shipped, also where there is no GPU."""
    world, out = split_world, f"accelerated-{shipped}"
    (world / f"{out}.json").write_text(json.dumps([job(world, out, **(CASES | SPLIT)[name])]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    config = Path(__file__).parents[2] / "configs" / f"{shipped}.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    call = [*launch, "--main_process_port", port, WORKER, "jobs", str(world / f"{out}.json")]
    done = subprocess.run(call, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    kept = json.loads((world / f"{out}.json.kept-1").read_text())  # there was a second process
    assert len(kept) == (shipped == "fsdp2")
    assert_same_run(world / name, world / out, 1e-12)


def command(world: Path, out: Path) -> list[str]:
    files = ["--model", str(world / "model"), "--data", str(world / "demonstrations.jsonl")]
    return ["sft", *files, "--out", str(out), "--epochs", "3"]


def test_a_failing_process_ends_the_others_with_one_message(world: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    call = [*torchrun, WORKER, "fail", *command(world, tmp_path / "out")]
    done = subprocess.run(call, capture_output=True, text=True, timeout=400)
    assert done.returncode == 1
    assert accord_says(done.stderr) == ["accord: the planted fault"], done.stderr
    assert len(logged(tmp_path / "out")) == 1
    assert not (tmp_path / "out" / "model").exists()


@pytest.mark.parametrize("environment", [{}, SPLITTING], ids=["whole", "split"])
def test_a_killed_process_ends_the_others(world: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    (first, said), (second, silent) = in_two("kill", *command(world, tmp_path / "out"), **environment)
    assert (first, second) == (2, -signal.SIGKILL)
    assert ["ended without a word" in line for line in accord_says(said)] == [True]
    assert accord_says(silent) == []


def test_stages_that_cannot_share_work_say_so(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(accord.AccordError, match="sample runs in one process"):
        accord.sample(model=str(world / "model"), prompts=str(world / "prompts.jsonl"), out="samples.jsonl")
