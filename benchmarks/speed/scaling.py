"""How cost grows: each work with one thing varied, one step after a first one, on both sides."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from speed.compare import Runner, compare, run_process
from speed.task import Task
from speed.works import WORKS, Bench

KEPT = (
    "ours_seconds",
    "peer_seconds",
    "speed_ratio",
    "ours_gb",
    "peer_gb",
    "memory_ratio",
    "busy_cores",
    "peer_failed",
)


@dataclass(frozen=True)
class Series:
    """A work and the values of what is varied, of such sizes that all series take 25 minutes on two cores."""

    work: str
    values: Sequence[Any]
    pairs: int = 4
    new_tokens: int = 32
    alone: Mapping[Any, str] = field(default_factory=dict)  # values that the peer is not given -> why


SCALING: Mapping[str, Series] = {
    "prompt tokens": Series("dpo", (32, 128, 512, 1024), alone={1024: "not run, needs about 23 GB"}),
    "answers per prompt": Series("grpo", (2, 4, 8, 16), pairs=8),
    "pairs per step": Series("dpo", (2, 8, 16)),
    "length of rejected / chosen": Series("dpo", (1, 3, 6)),
    "model": Series("dpo", ("smollm2-135m-instruct", "random-0.5b")),
}
SAMPLED = 16  # answers in all, however many each prompt gets


def scaling(bench: Bench, before: Mapping[str, Any], run: Runner = run_process) -> Iterator[dict[str, Any]]:
    """All series measured so far, each time that a row is added to what was measured `before`."""
    found = {label: dict(before.get(label, {})) for label in SCALING}
    for label, series in SCALING.items():
        known = {row["value"]: row for row in found[label].get("rows", ())}
        for value in (v for v in series.values if v not in known):
            print(f"{series.work}, {label}: {value}", file=sys.stderr, flush=True)
            peer, alone = WORKS[series.work].peer, value in series.alone
            compared = compare(varied(bench, label, value), peer, 1, run, alone=alone)
            if alone:
                compared["peer_failed"] = series.alone[value]
            known[value] = {"value": value, **{key: compared[key] for key in KEPT if key in compared}}
            rows = [known[v] for v in series.values if v in known]
            found[label] = {"work": series.work, "rows": rows}
            yield {label: each for label, each in found.items() if each}


def varied(bench: Bench, label: str, value: Any) -> Task:
    """The task of one point."""
    series = SCALING[label]
    model = bench.model(value if label == "model" else bench.arguments.model)
    pairs = value if label == "pairs per step" else series.pairs
    made: dict[str, Any] = {
        "prompt tokens": {"prompt": value},
        "length of rejected / chosen": {"answer": 20, "ratio": value},
    }.get(label, {})
    data = bench.rows("scaled", model, pairs, **{"prompt": 80, **made})  # words, so that nothing else varies
    task = bench.task(series.work, model, data, steps=1)
    task = replace(task, new_tokens=series.new_tokens)
    if label == "answers per prompt":
        return replace(task, prompts=SAMPLED // value, answers=value)
    return task
