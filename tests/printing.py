"""A world in which a tiny policy learns to answer with printable characters, for stages that sample."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accord.config import OnlineConfig
from accord.data.batches import GroupBatch
from accord.records import Group
from accord.rewards.scorer import Scores
from accord.stages.methods import METHODS
from tiny import tiny_llama, tiny_tokenizer

SCHEMAS = {method.name: schema for schema, method in METHODS.items()}
PRINTABLE = 94  # the tokens below are the bytes ! to ~


def printable(groups: Sequence[Group], batch: GroupBatch) -> Scores:
    """The share of an answer's tokens that are printable ASCII; a random policy has about a third."""
    return Scores((batch.mask_CT & (batch.targets_CT < PRINTABLE)).sum(1) / batch.mask_CT.sum(1))


def write_world(folder: Path) -> Path:
    """A fresh policy and ten prompts."""
    tiny_llama().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    lines = [json.dumps({"prompt": f"Say {i}."}) + "\n" for i in range(10)]
    (folder / "prompts.jsonl").write_text("".join(lines))
    return folder


def printing_config(world: Path, method: str, out: Path, **changes: Any) -> OnlineConfig:
    """Two short iterations; the test puts `printable` in the reward model's place."""
    values = {
        "model": str(world / "model"),
        "reward_model": "a rule",
        "prompts": str(world / "prompts.jsonl"),
        "out": out,
        "iterations": 2,
        "prompts_per_iteration": 3,
        "k": 4,
        "max_new_tokens": 5,
        "missing_end_penalty": None,
        "lora": {"r": 8},
        "optim": {"learning_rate": 1e-2, "schedule": "constant"},
    }
    return SCHEMAS[method].model_validate({**values, **changes})


def logged(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").open()]
