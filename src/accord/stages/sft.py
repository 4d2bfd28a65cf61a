"""Supervised fine-tuning on people's demonstrations."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console

from accord.config import SftConfig
from accord.data.batches import GroupBatch, in_batches
from accord.data.datasets import load_demonstrations
from accord.data.render import Encoded
from accord.models.device import on_its_device
from accord.models.forward import hidden_states, token_logps
from accord.objectives.sft import nll
from accord.records import Group, Terms
from accord.stages.common import (
    announce,
    data_hash,
    fingerprint,
    keep_fitting,
    mix_seed,
    open_bench,
    order,
    precision,
    save_policy,
    write_json,
)
from accord.training.engine import Engine, ParameterGroup
from accord.training.lanes import lanes
from accord.training.run import Metrics, Run, run_steps

POLICY = "policy"


@on_its_device
def run(config: SftConfig, console: Console) -> dict[str, Any]:
    """Train, and write `out/model` (a Hugging Face folder), `out/metrics.jsonl` and `out/result.json`."""
    loaded = load_demonstrations(config.data, strict=config.strict)
    announce(loaded, "demonstrations", console)
    bench = open_bench(config.model, precision(config.dtype, config.lora))
    bench.trunk.add(POLICY, config.lora, seed=mix_seed(config.seed, 1))
    kept = keep_fitting(loaded.rows, bench.renderer.group, config.max_length, "demonstrations", console)
    encoded = [e for _, e in kept]
    engine = Engine(
        {POLICY: ParameterGroup(bench.trunk.parameters(POLICY), config.optim.learning_rate)}, config.optim
    )
    n_steps = max(1, math.ceil(config.epochs * len(encoded) / config.batch_size))

    def loss(batch: GroupBatch) -> Terms:
        with bench.trunk.use(POLICY) as model:
            hidden_FD = hidden_states(model, batch)
            logps_CT, _ = token_logps(model, hidden_FD, batch.where_CT, batch.targets_CT, batch.mask_CT)
        return nll(logps_CT, batch.mask_CT)

    def step(number: int) -> Metrics:
        chosen = [encoded[i] for i in order(len(encoded), config.batch_size, number, config.seed)]
        batches = microbatches(chosen, config.optim.tokens_per_microbatch, bench.shared)
        tokens = sum(int(b.mask_CT.sum()) for b in batches)
        return {
            **engine.step(batches, loss, count=tokens, progress=(number + 0.5) / n_steps),
            "tokens": tokens,
        }

    job = Run(
        config.out,
        "SFT",
        n_steps,
        config.checkpoint_every,
        fingerprint(config, data_hash(encoded)),
        headline=("loss",),
    )
    rows = run_steps(job, engine, step, console)
    record = {"stage": "sft", "base": config.model, "demonstrations": len(encoded), "steps": n_steps}
    save_policy(bench, POLICY, config.out / "model", how=config.save, record=record)
    result = {
        **record,
        "loss_first": rows[0]["loss"],
        "loss_last": rows[-1]["loss"],
        "model": str(config.out / "model"),
    }
    write_json(config.out / "result.json", result)
    return result


def microbatches(groups: list[Encoded], tokens: int, shared: bool) -> list[GroupBatch]:
    """The step's groups as batches that each fit the token budget."""
    return [batch for _, batch in in_batches(groups, tokens, shared=shared, lanes=lanes())]


def demonstrations_of(groups: list[Group]) -> list[dict[str, Any]]:
    """Demonstrations as TRL `messages` rows."""
    return [
        {
            "messages": [
                *({"role": m.role, "content": m.content} for m in g.prompt.messages),
                {"role": "assistant", "content": g.completions[0].text},
            ]
        }
        for g in groups
    ]
