"""Accord's side: the stages as a user runs them, timed by the seconds that they log themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import accord
from accord.data.datasets import load_prompts
from accord.data.render import Renderer
from accord.models.device import on_device
from accord.models.load import load_model
from accord.records import Sampling
from accord.rollout.local import LocalSampler
from accord.stages import offline
from accord.training.run import read_metrics
from speed.task import LEARNING_RATE, LORA_ALPHA, LORA_RANK, Measured, Task, read_rows, spread, write_rows

NEVER = 1_000_000  # no checkpoint inside a measured step
REWARD = f"{Path(__file__).with_name('rewards.py')}:variety"
OPTIM = {"learning_rate": LEARNING_RATE, "schedule": "constant", "warmup_share": 0.0}


def sft(task: Task) -> Measured:
    return _supervised(accord.sft, task)


def reward(task: Task) -> Measured:
    return _supervised(accord.reward, task)


def dpo_cached(task: Task) -> Measured:
    return _supervised(accord.dpo, task)


def dpo(task: Task) -> Measured:
    """A step and the reference's pass over its pairs, which Accord makes once, before the first step."""
    with _timed_reference() as spent:
        found = dpo_cached(task)
    return Measured([s + spent[0] for s in found.seconds], found.tokens, found.losses)


def grpo(task: Task) -> Measured:
    return _online(accord.grpo, task)


def rloo(task: Task) -> Measured:
    return _online(accord.rloo, task)


def ppo(task: Task) -> Measured:
    with TemporaryDirectory() as folder:
        fitted = accord.reward(
            **_common(task, "model", Path(folder)), data=f"{task.data}/pairs.jsonl", epochs=1, held_out=0.0
        )
        return _online(accord.ppo, task, epochs=4, reward_model=fitted["model"])


def sampling(task: Task) -> Measured:
    with on_device("auto"):
        loaded = load_model(task.model, dtype=task.dtype)
    sampler = LocalSampler(loaded.model, Renderer(loaded.tokenizer), policy_version="benchmark")
    prompts = spread(load_prompts(f"{task.data}/prompts.jsonl").rows, task.prompts)
    seconds, tokens = [], 0
    for seed in range(task.steps + 1):
        began = time.perf_counter()
        groups = sampler.sample(prompts, task.answers, Sampling(1.0, 1.0, task.new_tokens, seed))
        seconds.append(time.perf_counter() - began)
        tokens = sum(len(c.token_ids) for g in groups for c in g.completions)
    return Measured(seconds[1:], tokens)


OURS: Mapping[str, Callable[[Task], Measured]] = {
    "sft": sft,
    "reward": reward,
    "dpo": dpo,
    "dpo-cached": dpo_cached,
    "grpo": grpo,
    "rloo": rloo,
    "ppo": ppo,
    "sampling": sampling,
}


def _common(task: Task, name: str, folder: Path) -> dict[str, Any]:
    lora = {"r": LORA_RANK, "alpha": LORA_ALPHA, "layers": 1.0} if task.lora else None
    return {
        "model": task.model,
        "out": folder / name,
        "dtype": task.dtype,
        "lora": lora,
        "checkpoint_every": NEVER,
        "quiet": True,
    }


def supervised_settings(task: Task, folder: Path) -> dict[str, Any]:
    """Of a stage that writes into `folder`; all rows are in every step, so an epoch is a step."""
    rows = f"{task.data}/{'demonstrations' if task.work == 'sft' else 'pairs'}.jsonl"
    saved = {"save": "adapter"} if task.lora else {}  # a full copy can only be saved whole
    own: dict[str, dict[str, Any]] = {"sft": saved, "reward": {"held_out": 0.0, "probe_penalty": None}}
    return {
        **_common(task, "out", folder),
        "data": rows,
        "epochs": task.steps + 1,
        "batch_size": len(read_rows(rows)),
        "max_length": 4096,  # leaves nothing out; the peer is told so, too
        "optim": OPTIM,
        **own.get(task.work, {"held_out": 0.0, **saved}),
    }


def online_settings(task: Task, folder: Path) -> dict[str, Any]:
    """Of a stage that writes into `folder`, which gets the prompts, too."""
    prompts = folder / "prompts.jsonl"
    write_rows(prompts, spread(read_rows(f"{task.data}/prompts.jsonl"), task.prompts))
    return {
        **_common(task, "out", folder),
        "prompts": prompts,
        "iterations": task.steps + 1,
        "prompts_per_iteration": task.prompts,
        "k": task.answers,
        "max_new_tokens": task.new_tokens,
        "minibatches": 1,
        "epochs": 1,
        "kl": {"coef": 0.04 if task.work == "grpo" else 0.05},
        "reward_model": REWARD,
        "stop_kl": 1e9,
        "missing_end_penalty": None,
        "optim": OPTIM,
        "save": "adapter" if task.lora else "merged",
    }


def _supervised(stage: Callable[..., Any], task: Task) -> Measured:
    with TemporaryDirectory() as folder:
        stage(**supervised_settings(task, Path(folder)))
        log = read_metrics(Path(folder) / "out")
    answers = ("chosen",) if task.work == "sft" else ("chosen", "rejected")
    tokens = sum(row[name] for row in read_rows(f"{task.data}/lengths.jsonl") for name in answers)
    return Measured([row["seconds"] for row in log[1:]], tokens, [row["loss"] for row in log])


def _online(stage: Callable[..., Any], task: Task, **own: Any) -> Measured:
    with TemporaryDirectory() as folder:
        stage(**{**online_settings(task, Path(folder)), **own})
        log = read_metrics(Path(folder) / "out")
    tokens = round(log[-1]["completions/mean_length"] * task.sampled)
    return Measured([row["seconds"] for row in log[1:]], tokens, [row["loss"] for row in log])


@contextmanager
def _timed_reference() -> Iterator[list[float]]:
    """The seconds of a warm pass of the reference, in the list that is yielded.

    The stage asks for it first of all, on cold memory; like a first step, that pass does not count, so a
    second one follows.
    """
    function, spent = offline.reference_logps, list[float]()

    def timed(*args: Any, path: Path, **settings: Any) -> Any:
        function(*args, path=path, **settings)
        path.unlink()  # where the first pass was kept
        began = time.perf_counter()
        result = function(*args, path=path, **settings)
        spent.append(time.perf_counter() - began)
        return result

    offline.reference_logps = timed
    try:
        yield spent
    finally:
        offline.reference_logps = function
