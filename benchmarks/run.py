"""Accord against its peers on this machine: speed, memory, and how far both are from the physical limit.

    python benchmarks/run.py                     # everything (hours); results go to docs/performance.*
    python benchmarks/run.py --only dpo sft      # some works; the rest of the results is kept
    python benchmarks/run.py --only scaling      # how cost grows; --only processes, --only limits

Each measurement is a fresh process; ours and the peer's alternate, and medians over all repeats are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from speed.task import Measured, Task

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TRL, TRL_PPO = "trl-1.16.0", "trl-1.12.0"  # the newest, and the last that has PPO
TIMEOUT = 3600


@dataclass(frozen=True)
class Work:
    """A row of the table: what a step is, and which line of peers.txt the peer is."""

    what: str
    peer: str = TRL
    prompts: int = 0
    answers: int = 1


WORKS: Mapping[str, Work] = {
    "sft": Work("8 demonstrations"),
    "reward": Work("8 pairs"),
    "dpo": Work("8 pairs, reference included"),
    "dpo-cached": Work("8 pairs, reference computed before"),
    "grpo": Work("2 prompts × 8 answers × 64 tokens", prompts=2, answers=8),
    "rloo": Work("2 prompts × 8 answers × 64 tokens", prompts=2, answers=8),
    "ppo": Work("4 prompts × 4 answers × 64 tokens, 4 epochs", peer=TRL_PPO, prompts=4, answers=4),
    "sampling": Work("8 prompts × 4 answers × 64 tokens", prompts=8, answers=4),
}
# What is varied -> (the work, its values)
SCALING: Mapping[str, tuple[str, Sequence[Any]]] = {
    "prompt tokens": ("dpo", (32, 128, 512)),
    "answers per prompt": ("grpo", (2, 4, 8, 16)),
    "pairs per step": ("dpo", (2, 8, 32)),
    "length of rejected / chosen": ("dpo", (1, 3, 6)),
    "model": ("dpo", ("smollm2-135m-instruct", "random-0.5b")),
}

Runner = Callable[[str, Task, str], Measured]


def run_process(side: str, task: Task, peer: str) -> Measured:
    """One measurement in a process of its own, which sees the peer's folder only if it is the peer's."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    paths = [str(HERE), str(HERE / ".peers" / peer)] if side == "peer" else [str(HERE)]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    command = [sys.executable, "-m", "speed.measure", side, task.to_json()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode:
        raise SystemExit(f"{side} {task.work} failed:\n{done.stderr[-4000:]}")
    return Measured(**json.loads(done.stdout.strip().splitlines()[-1]))


def compare(task: Task, peer: str, repeats: int, run: Runner = run_process) -> dict[str, Any]:
    """Ours and the peer's in turn; the ratios say how many times as much the peer takes."""
    found: dict[str, list[Measured]] = {"ours": [], "peer": []}
    for _ in range(repeats):
        for side, measured in found.items():
            measured.append(run(side, task, peer))
            print(f"  {side}: {_show(measured[-1])}", file=sys.stderr, flush=True)
    ours, theirs = found["ours"], found["peer"]
    seconds = [median(s for m in side for s in m.seconds) for side in (ours, theirs)]
    memory = [median(m.peak_gb for m in side) for side in (ours, theirs)]
    return {
        "speed_ratio": round(seconds[1] / seconds[0], 2),
        "memory_ratio": round(memory[0] / memory[1], 3),
        "ours_seconds": round(seconds[0], 3),
        "peer_seconds": round(seconds[1], 3),
        "ours_range": _range(ours),
        "peer_range": _range(theirs),
        "ours_gb": round(memory[0], 2),
        "peer_gb": round(memory[1], 2),
        "ours_tokens": ours[0].tokens,
        "peer_tokens": theirs[0].tokens,
        "ours_losses": ours[0].losses,
        "peer_losses": theirs[0].losses,
        "steps": sum(len(m.seconds) for m in ours),
        "peer": peer if task.work != "sampling" else "generate()",
    }


def _range(side: Sequence[Measured]) -> list[float]:
    seconds = [s for m in side for s in m.seconds]
    return [round(min(seconds), 3), round(max(seconds), 3)]


def _show(m: Measured) -> str:
    steps = " ".join(f"{s:.2f}" for s in m.seconds)
    return (
        f"{steps} s a step, {m.peak_gb:.2f} GB, {m.tokens} tokens, losses {[round(x, 4) for x in m.losses]}"
    )


def start_up(repeats: int = 10) -> dict[str, Any]:
    """Seconds until `--help` is printed. The first run of each, which fills caches, is not counted."""
    binary = Path(sys.executable).with_name("accord")
    peer = [sys.executable, "-c", "from trl.cli import main; main()"]
    environments = [dict(os.environ), {**os.environ, "PYTHONPATH": str(HERE / ".peers" / TRL)}]
    seconds: list[list[float]] = [[], []]
    for _ in range(repeats + 1):
        for i, command in enumerate(([str(binary)], peer)):
            began = time.perf_counter()
            subprocess.run([*command, "--help"], env=environments[i], capture_output=True, check=True)
            seconds[i].append(time.perf_counter() - began)
    ours, theirs = (median(s[1:]) for s in seconds)
    return {
        "speed_ratio": round(theirs / ours, 2),
        "ours_seconds": round(ours, 3),
        "peer_seconds": round(theirs, 3),
        "peer": TRL,
    }


@dataclass(frozen=True)
class Bench:
    """Where things lie, and how often they are run."""

    arguments: argparse.Namespace
    folder: Path

    def model(self, name: str) -> str:
        from speed.rows import write_model

        short = Path(name).name
        return str(write_model(name, self.folder / f"model-{short}-{self.dtype}", self.dtype))

    @property
    def dtype(self) -> str:
        return str(self.arguments.dtype)

    def rows(self, name: str, model: str, pairs: int, **made: Any) -> str:
        """A data folder: of the real comparisons, or of words where `made` says how many."""
        from speed import rows
        from transformers import AutoTokenizer

        from accord.data.render import Renderer

        renderer = Renderer(AutoTokenizer.from_pretrained(model))
        source = Path(self.arguments.preferences)
        real = not made and source.exists()
        found = rows.hh_rows(source, renderer, pairs) if real else rows.made_rows(renderer, pairs, **made)
        return str(rows.write(self.folder / name, found, renderer))

    def task(self, name: str, model: str, data: str, steps: int) -> Task:
        work = WORKS[name]
        return Task(
            name,
            model,
            data,
            steps,
            work.prompts,
            work.answers,
            self.arguments.new_tokens,
            not self.arguments.full,
            self.dtype,
            self.arguments.peer_checkpointing,
        )


def work(bench: Bench, name: str, machine: Any) -> dict[str, Any]:
    """A row of the table, with both sides' share of what the machine could do."""
    from speed.limits import limit_seconds
    from speed.task import read_rows, spread

    print(f"{name}: {WORKS[name].what}", file=sys.stderr, flush=True)
    model = bench.model(bench.arguments.model)
    data = bench.rows("pairs", model, bench.arguments.pairs)
    task = bench.task(name, model, data, bench.arguments.steps)
    found = compare(task, WORKS[name].peer, bench.arguments.repeats)
    lengths = read_rows(f"{data}/lengths.jsonl")
    lengths = spread(lengths, task.prompts) if task.prompts else lengths
    limit = limit_seconds(task, shape_of(model), lengths, machine)
    return {
        "what": WORKS[name].what,
        **found,
        "limit_seconds": round(limit, 3),
        "fraction_of_limit": round(limit / found["ours_seconds"], 3),
        "peer_fraction_of_limit": round(limit / found["peer_seconds"], 3),
    }


def scaling(bench: Bench) -> dict[str, Any]:
    """Each work with one thing varied; a short run of two steps after the first."""
    found: dict[str, Any] = {}
    for label, (name, values) in SCALING.items():
        rows = []
        for value in values:
            print(f"{name}, {label}: {value}", file=sys.stderr, flush=True)
            compared = compare(varied(bench, label, name, value), WORKS[name].peer, 1)
            keep = ("ours_seconds", "peer_seconds", "speed_ratio", "ours_gb", "peer_gb", "memory_ratio")
            rows.append({"value": value, **{key: compared[key] for key in keep}})
        found[label] = {"work": name, "rows": rows}
    return found


def varied(bench: Bench, label: str, name: str, value: Any) -> Task:
    model = bench.model(value if label == "model" else bench.arguments.model)
    pairs = bench.arguments.pairs
    data = {
        "prompt tokens": lambda: bench.rows("scaled", model, pairs, prompt=value),
        "answers per prompt": lambda: bench.rows("scaled", model, 16),
        "pairs per step": lambda: bench.rows("scaled", model, value),
        "length of rejected / chosen": lambda: bench.rows("scaled", model, pairs, answer=20, ratio=value),
        "model": lambda: bench.rows("scaled", model, pairs),
    }[label]()
    task = bench.task(name, model, data, 2)
    if label == "answers per prompt":
        return replace(task, prompts=16 // value, answers=value)
    return task


def processes(bench: Bench) -> dict[str, Any]:
    """Seconds of a DPO step by the command itself: one process with all cores, two with half of them each."""
    model = bench.model(bench.arguments.model)
    data = bench.rows("pairs", model, bench.arguments.pairs)
    found: dict[str, Any] = {"work": "dpo-cached"}
    for count in (1, 2):
        with TemporaryDirectory() as out:
            launch = ["torchrun", "--nproc-per-node", str(count), "--no-python"] if count > 1 else []
            settings = {
                "model": model,
                "data": f"{data}/pairs.jsonl",
                "out": out,
                "dtype": bench.dtype,
                "epochs": bench.arguments.steps + 1,
                "batch_size": bench.arguments.pairs,
                "held_out": 0,
                "save": "adapter",
            }
            flags = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
            threads = str(max(1, (os.cpu_count() or 1) // count))
            binaries = Path(sys.executable).parent
            path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
            environment = {**os.environ, "OMP_NUM_THREADS": threads, "PATH": path}
            command = [*launch, "accord", "dpo", *flags]
            subprocess.run(command, env=environment, capture_output=True, check=True, timeout=TIMEOUT)
            log = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
        found[str(count)] = round(median(row["seconds"] for row in log[1:]), 3)
        print(f"  {count} processes: {found[str(count)]} s a step", file=sys.stderr, flush=True)
    return found


def shape_of(model: str) -> Any:
    from speed.limits import Shape
    from transformers import AutoConfig

    c = AutoConfig.from_pretrained(model)
    size = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    keys = c.num_key_value_heads * size
    queries = c.num_attention_heads * size
    return Shape(c.num_hidden_layers, c.hidden_size, queries, keys, c.intermediate_size, c.vocab_size)


def limits() -> Any:
    from speed.limits import Machine

    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "speed.measure", "machine"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return Machine(**json.loads(done.stdout))


def default_preferences() -> Path:
    """HH-harmless where it is at hand; made-up rows of such lengths where it is not."""
    roots = [Path(os.environ["ACCORD_TEST_DATA"])] if "ACCORD_TEST_DATA" in os.environ else []
    roots += [ROOT.parent / "shared" / "data", ROOT / "shared" / "data"]
    files = [root / "hh_harmless_test" / "harmless_test.jsonl.gz" for root in roots]
    return next((file for file in files if file.exists()), files[-1])


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = [*WORKS, "start-up", "scaling", "processes", "limits"]
    parser.add_argument(
        "--only", nargs="+", choices=parts, default=parts, metavar="WORK", help=", ".join(parts)
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a folder, a hub id, or random-0.5b")
    parser.add_argument("--preferences", default=str(default_preferences()), help="a file of preferences")
    parser.add_argument("--pairs", type=int, default=8, help="pairs per step")
    parser.add_argument("--new_tokens", type=int, default=64, help="tokens of a sampled answer")
    parser.add_argument("--steps", type=int, default=3, help="measured steps in a process, after a first one")
    parser.add_argument("--repeats", type=int, default=2, help="processes of each side")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--full", action="store_true", help="full fine-tuning instead of LoRA")
    parser.add_argument("--peer_checkpointing", action="store_true", help="the peer's gradient checkpointing")
    parser.add_argument("--variant", default="", help="keep these results apart, under this name")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where performance.* are written")
    parser.add_argument("--work", type=Path, default=HERE / ".work", help="for models and rows")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    from speed import report

    chosen = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that no measurement outlives us
    bench = Bench(chosen, chosen.work)
    machine = limits()
    print(f"machine: {machine.gflops:.0f} GFLOP/s, {machine.gbytes:.1f} GB/s", file=sys.stderr)
    path = chosen.docs / "performance.json"
    others = {"start-up": start_up, "scaling": lambda: scaling(bench), "processes": lambda: processes(bench)}

    def measured(part: str) -> dict[str, Any]:
        return work(bench, part, machine) if part in WORKS else others[part]()

    for part in chosen.only:
        new = {} if part == "limits" else {part: measured(part)}
        results = report.merge(path, new, machine, chosen.variant)
        report.write(results, chosen.docs)


if __name__ == "__main__":
    main()
