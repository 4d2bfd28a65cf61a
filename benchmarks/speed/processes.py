"""One process with all cores against two with half of them each, on the same micro-batches."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from speed.compare import HERE, run_command, warn_if_busy
from speed.ours import online_settings, supervised_settings
from speed.task import Task
from speed.works import WORKS, Bench

STAGES: Mapping[str, str] = {"sft": "sft", "dpo-cached": "dpo", "grpo": "grpo"}
# TRL's cached reference cannot be shared by processes that are given rows in memory.
CASES = (*(("ours", name) for name in STAGES), ("peer", "dpo"))
PROMPTS, ANSWERS = 4, 4  # so that two processes have as many rows each
BUDGET = 384  # tokens of a micro-batch: an even number of equal ones, or a process would wait for the other

Runner = Callable[[str, Task, int], float]


def processes(bench: Bench, run: Runner | None = None) -> Iterator[dict[str, Any]]:
    """{work: {"side", "what", "one", "two", "ratio"}} in seconds of a step, each time that one is added."""
    run = run or seconds_of
    model = bench.model(bench.arguments.model)
    data = bench.rows("pairs", model, bench.arguments.pairs)
    found: dict[str, Any] = {}
    for side, name in CASES:
        print(f"{side} {name}: one process, two processes", file=sys.stderr, flush=True)
        task, what = bench.task(name, model, data, bench.arguments.steps), bench.what(name)
        if task.prompts:
            task = replace(task, prompts=PROMPTS, answers=ANSWERS)
            what = f"{PROMPTS} prompts × {ANSWERS} answers × {task.new_tokens} tokens"
        busy = warn_if_busy()
        one, two = (round(run(side, task, count), 3) for count in (1, 2))
        print(f"  {one:.2f} s, {two:.2f} s", file=sys.stderr, flush=True)
        row = {"side": side, "what": what, "one": one, "two": two, "ratio": round(one / two, 2)}
        found = {**found, name: {**row, "busy_cores": busy}}
        yield found


def seconds_of(side: str, task: Task, count: int) -> float:
    """Of a step in so many processes; ours is started as a user starts it. Raises MeasurementError."""
    threads = str(max(1, (os.cpu_count() or 1) // count))
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    environment["PATH"] = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    launch = ["torchrun", "--nproc-per-node", str(count), "--no-python"]
    name = f"{side} {task.work} in {count} processes"
    if side == "peer":
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE / ".peers" / WORKS[task.work].peer)])
        command = [*launch, sys.executable, "-m", "speed.measure", "peer", task.to_json()]
        printed = run_command(command, environment, name).splitlines()
        return median(json.loads(printed[-1])["seconds"])
    with TemporaryDirectory() as folder:
        command = stage_command(task, Path(folder))
        run_command([*launch, *command] if count > 1 else command, environment, name)
        log = (Path(folder) / "out" / "metrics.jsonl").read_text().splitlines()
    return median(json.loads(line)["seconds"] for line in log[1:])


def stage_command(task: Task, folder: Path) -> list[str]:
    """The command of our stage, with its settings as a file in `folder`."""
    settings = (online_settings if task.prompts else supervised_settings)(task, folder)
    del settings["quiet"]
    settings["optim"] = {**settings["optim"], "tokens_per_microbatch": BUDGET}
    path = folder / "settings.yaml"
    path.write_text(json.dumps(settings, default=str))  # which is YAML, too
    return ["accord", STAGES[task.work], "--config", str(path)]
