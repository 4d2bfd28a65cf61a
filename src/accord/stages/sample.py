"""Sample several answers per prompt from a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from accord.config import SampleConfig
from accord.data.datasets import load_prompts
from accord.data.groups import write_groups
from accord.data.render import Renderer
from accord.models.device import on_its_device
from accord.models.load import load_model, weights_sha256
from accord.records import Sampling
from accord.rollout.local import LocalSampler
from accord.stages.common import announce
from accord.training.run import counting


@on_its_device
def run(config: SampleConfig, console: Console) -> dict[str, Any]:
    """Write `out` (JSONL, one group a line), atomically, and return counts."""
    loaded = load_prompts(config.prompts, limit=config.limit)
    announce(loaded, "prompts", console)
    model = load_model(config.model, dtype=config.dtype)
    version = policy_version(config.model, model.source)
    sampler = LocalSampler(model.model, Renderer(model.tokenizer), policy_version=version, rows=config.rows)
    sampling = Sampling(config.temperature, config.top_p, config.max_new_tokens, config.seed)
    with counting(console, "sampling", len(loaded.rows) * config.k, "answers") as report:
        groups = sampler.sample(loaded.rows, config.k, sampling, on_progress=report)
    write_groups(config.out, groups)
    answers = [c for g in groups for c in g.completions]
    return {
        "out": str(config.out),
        "prompts": len(groups),
        "answers": len(answers),
        "policy_version": version,
        "mean_length": sum(len(c.token_ids) for c in answers) / len(answers),
        "ended_by_themselves": sum(c.finish_reason == "stop" for c in answers) / len(answers),
    }


def policy_version(name: str, source: str) -> str:
    """A model's name with the first digits of its weights' hash: what the ledger remembers it by."""
    if not Path(source).is_dir():
        return name
    return f"{Path(name).parent.name or name}/{Path(name).name}@{weights_sha256(Path(source))[:12]}"
