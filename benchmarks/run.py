"""Accord against its peers on this machine: speed, memory, and how far both are from the physical limit.

    python benchmarks/run.py                     # everything, in an hour and a half, to docs/performance.*
    python benchmarks/run.py --only dpo sft      # some works; the rest of the results is kept
    python benchmarks/run.py --only scaling      # how cost grows; goes on where it was stopped
    python benchmarks/run.py --profile dpo       # where our own time goes; nothing is written

Each measurement is a fresh process; ours and the peer's alternate, and medians over all repeats are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from speed.compare import MeasurementError, ceilings, compare, run_command, start_up
from speed.works import BYTES, WORKS, Bench, shape_of

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def one_step(bench: Bench, name: str) -> dict[str, Any]:
    """A row of the table, with both sides' share of what the machine could do just before."""
    from speed.limits import limit_seconds
    from speed.task import read_rows, spread

    print(f"{name}: {bench.what(name)}", file=sys.stderr, flush=True)
    model = bench.model(bench.arguments.model)
    data = bench.rows("pairs", model, bench.arguments.pairs)
    task = bench.task(name, model, data, bench.arguments.steps)
    machine = ceilings(bench.dtype)
    found = compare(task, WORKS[name].peer, bench.arguments.repeats)
    lengths = read_rows(f"{data}/lengths.jsonl")
    lengths = spread(lengths, task.prompts) if task.prompts else lengths
    limit = limit_seconds(task, shape_of(model, bench.dtype), lengths, machine)
    sides = {"": "ours", "peer_": "peer"}
    shares = {
        f"{prefix}fraction_of_limit": round(limit / found[f"{side}_seconds"], 3)
        for prefix, side in sides.items()
        if f"{side}_seconds" in found
    }
    return {
        "what": bench.what(name),
        **bench.conditions(name),
        **found,
        "gflops": round(machine.gflops, 1),
        "gbytes": round(machine.gbytes, 1),
        "limit_seconds": round(limit, 3),
        **shares,
    }


def limits() -> dict[str, Any]:
    """The machine's ceilings in each precision."""
    found = {}
    for dtype in BYTES:
        machine = ceilings(dtype)
        products = {name: round(value, 1) for name, value in machine.products.items()}
        found[dtype] = {"products": products, "gbytes": round(machine.gbytes, 1)}
    return found


def results_of(part: str, bench: Bench, before: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What was found of `part`, as often as there is more of it; `before` is what is known of it."""
    from speed.processes import processes
    from speed.scaling import scaling

    if part == "scaling":
        yield from scaling(bench, {} if bench.arguments.again else before)
    elif part == "processes":
        yield from processes(bench)
    elif part == "limits":
        yield limits()
    else:
        yield start_up() if part == "start-up" else one_step(bench, part)


def show_profile(bench: Bench, name: str) -> None:
    """Print where our time goes in two steps of a work."""
    from speed.profiling import Profile, table

    model = bench.model(bench.arguments.model)
    task = bench.task(name, model, bench.rows("pairs", model, bench.arguments.pairs), steps=1)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "speed.measure", "profile", task.to_json()]
    printed = run_command(command, environment, f"profile of {name}").splitlines()[-1]
    print(table(Profile(**json.loads(printed))))


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
    parts = ["limits", *WORKS, "start-up", "scaling", "processes"]
    parser.add_argument(
        "--only", nargs="+", choices=parts, default=parts, metavar="WORK", help=", ".join(parts)
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a folder, a hub id, or random-0.5b")
    parser.add_argument("--preferences", default=str(default_preferences()), help="a file of preferences")
    parser.add_argument("--pairs", type=int, default=8, help="pairs per step")
    parser.add_argument("--new_tokens", type=int, default=64, help="tokens of a sampled answer")
    parser.add_argument("--steps", type=int, default=3, help="measured steps in a process, after a first one")
    parser.add_argument("--repeats", type=int, default=2, help="processes of each side")
    parser.add_argument("--dtype", default="float32", choices=list(BYTES))
    parser.add_argument("--full", action="store_true", help="full fine-tuning instead of LoRA")
    parser.add_argument("--peer_checkpointing", action="store_true", help="the peer's gradient checkpointing")
    weights = "of the peer in bfloat16; float32, its default, is multiplied under autocast"
    parser.add_argument("--peer_weights", default="float32", choices=list(BYTES), help=weights)
    parser.add_argument("--again", action="store_true", help="measure anew what --only scaling has already")
    parser.add_argument(
        "--profile", choices=list(WORKS), metavar="WORK", help="only print where our time goes"
    )
    parser.add_argument("--variant", default="", help="keep these results apart, under this name")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where performance.* are written")
    parser.add_argument("--work", type=Path, default=HERE / ".work", help="for models and rows")
    chosen = parser.parse_args(arguments)
    if BYTES[chosen.peer_weights] < BYTES[chosen.dtype]:
        parser.error("--peer_weights bfloat16 goes with --dtype bfloat16")
    return chosen


def main(arguments: Sequence[str] | None = None) -> None:
    from speed import report

    chosen = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that no measurement outlives us
    bench = Bench(chosen, chosen.work)
    if chosen.profile:
        return show_profile(bench, chosen.profile)
    failed = []
    for part in chosen.only:
        try:
            for found in results_of(part, bench, report.known(chosen.docs, part, chosen.variant)):
                report.keep(chosen.docs, part, found, chosen.variant)
        except MeasurementError as error:
            print(error, file=sys.stderr, flush=True)
            failed.append(part)
    if failed:
        raise SystemExit(f"without a result: {', '.join(failed)}")


if __name__ == "__main__":
    main()
