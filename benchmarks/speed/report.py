"""What was measured, as JSON that grows from run to run, as a page to read, and as a picture."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

ORDER = ("sft", "reward", "dpo", "dpo-cached", "grpo", "rloo", "ppo", "sampling", "start-up")
# What was aimed at: (times as fast as the peer, share of the peer's memory)
TARGETS: Mapping[str, tuple[float | None, float | None]] = {
    "sft": (3, 1 / 2),
    "reward": (3, 1 / 2),
    "dpo": (5, 1 / 3),
    "dpo-cached": (6, 1 / 3),
    "grpo": (5, 1 / 3),
    "rloo": (5, 1 / 3),
    "ppo": (6, 1 / 5),
    "sampling": (5, None),
    "start-up": (None, None),
}
NOT_MEASURED = """\
## Not measured

- On a GPU: none was at hand. The same file runs there (`--dtype bfloat16 --model random-1b`), but Accord does not
  move models to a GPU by itself yet.
- vLLM, for the same reason.
- Other peers than TRL: OpenRLHF and verl need GPUs.
"""


def merge(path: Path, new: Mapping[str, Any], machine: Any, variant: str) -> dict[str, Any]:
    """The results at `path` with `new` over them; each says when and under which load it was measured."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    stamp = {"when": time.strftime("%Y-%m-%d %H:%M"), "load_average": round(os.getloadavg()[0], 2)}
    target = results.setdefault("variants", {}).setdefault(variant, {}) if variant else results
    for name, found in new.items():
        target[name] = {**found, **stamp}
    results["machine"] = {**_machine(), **{k: round(v, 1) for k, v in asdict(machine).items()}}
    return results


def write(results: Mapping[str, Any], folder: Path) -> None:
    """performance.json, performance.md and performance.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    (folder / "performance.json").write_text(text, encoding="utf-8")
    (folder / "performance.md").write_text(page(results), encoding="utf-8")
    draw(results, folder / "performance.svg")


def _machine() -> dict[str, Any]:
    names = ("torch", "transformers", "peft")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in names},
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = " ".join(line for line in lines[:40] if line.startswith("flags")).split()
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{names[0] if names else platform.processor()} ({', '.join(known)})"


def page(results: Mapping[str, Any]) -> str:
    """docs/performance.md."""
    sections = [_head(results["machine"]), _table(results), _variants(results.get("variants", {}))]
    sections += [
        _scaling(results.get("scaling", {})),
        _processes(results.get("processes")),
        _METHOD,
        NOT_MEASURED,
    ]
    return "\n".join(section for section in sections if section)


def _head(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return f"""\
# Speed and memory, against TRL

```
make bench                                     # everything: hours
make bench BENCH_ARGS="--only dpo grpo"        # some works; the rest of this page is kept
```

This page is written by `benchmarks/run.py`; the numbers are in [performance.json](performance.json).

Machine: {machine["processor"]}, {machine["cores"]} cores, {machine["system"]}; {versions}, all threads. Measured
ceilings in float32: {machine["gflops"]:.0f} GFLOP/s (matrix products), {machine["gbytes"]:.1f} GB/s (reading
memory).

![How many times as fast as the peer](performance.svg)
"""


def _table(results: Mapping[str, Any]) -> str:
    names = [name for name in ORDER if name in results]
    if not names:
        return ""
    lines = [
        "## One step\n",
        "SmolLM2-135M in float32, LoRA of rank 16 on all linear layers, unless a line says otherwise. Medians, "
        "in brackets the\nfastest and slowest step.\n",
        "| work | Accord, s | TRL, s | times as fast (aim) | Accord, GB | TRL, GB | share (aim) | of the limit "
        "| TRL's | measured |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(name, results[name]) for name in names]
    lines.append(
        "\nSampling is compared with `generate()`, PPO with TRL 1.12 (the last with PPO), start-up with "
        "`trl --help`; all\nelse with TRL 1.16."
    )
    return "\n".join(lines) + "\n"


def _row(name: str, r: Mapping[str, Any]) -> str:
    speed, memory = TARGETS[name]
    cells = [
        f"{name}: {r['what']}" if "what" in r else name,
        _seconds(r, "ours"),
        _seconds(r, "peer"),
        f"**{r['speed_ratio']:.1f}**" + (f" (≥ {speed:g})" if speed else ""),
        f"{r['ours_gb']:.1f}" if "ours_gb" in r else "",
        f"{r['peer_gb']:.1f}" if "peer_gb" in r else "",
        f"**{r['memory_ratio']:.2f}**" + (f" (≤ {memory:.2f})" if memory else "")
        if "memory_ratio" in r
        else "",
        f"{r['fraction_of_limit']:.0%}" if "fraction_of_limit" in r else "",
        f"{r['peer_fraction_of_limit']:.0%}" if "peer_fraction_of_limit" in r else "",
        r["when"],
    ]
    return f"| {' | '.join(cells)} |"


def _seconds(r: Mapping[str, Any], side: str) -> str:
    span = r.get(f"{side}_range")
    return f"{r[f'{side}_seconds']:.2f}" + (f" [{span[0]:.2f}, {span[1]:.2f}]" if span else "")


def _variants(variants: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for label, results in variants.items():
        for name in (n for n in ORDER if n in results):
            r = results[name]
            lines.append(
                f"| {label} | {name} | {_seconds(r, 'ours')} | {_seconds(r, 'peer')} | {r['speed_ratio']:.1f} | "
                f"{r['ours_gb']:.1f} | {r['peer_gb']:.1f} | {r['memory_ratio']:.2f} |"
            )
    if not lines:
        return ""
    head = [
        "## In other ways\n",
        "| how | work | Accord, s | TRL, s | times as fast | Accord, GB | TRL, GB | share |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *lines]) + "\n"


def _scaling(found: Mapping[str, Any]) -> str:
    tables = []
    for label, rows in found.items():
        if not isinstance(rows, dict):
            continue  # when it was measured
        tables += [
            f"\n| {label} ({rows['work']}) | Accord, s | TRL, s | times as fast | Accord, GB | TRL, GB |"
        ]
        tables += ["|---|---|---|---|---|---|"]
        tables += [
            f"| {r['value']} | {r['ours_seconds']:.2f} | {r['peer_seconds']:.2f} | {r['speed_ratio']:.1f} | "
            f"{r['ours_gb']:.1f} | {r['peer_gb']:.1f} |"
            for r in rows["rows"]
        ]
    if not tables:
        return ""
    intro = "## How cost grows\n\nTwo steps after the first, one run of each side, on rows made of words."
    return "\n".join([intro, *tables]) + "\n"


def _processes(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    one, two = found["1"], found["2"]
    return (
        f"## Two processes\n\nA step of {found['work']} takes {one:.2f} s in one process with all cores and "
        f"{two:.2f} s in two processes with\nhalf of the cores each ({one / two:.2f} times as fast): on one "
        "machine the cores are shared either way, so little can be won.\n"
    )


_METHOD = """\
## How it was measured

- Each number comes from a fresh process. Accord's and TRL's processes alternate; medians are taken over all steps of
  all processes but each process's first step.
- Both sides get the same rows, as text, and tokenise them to the same tokens (the counts are in the JSON, and
  `tests/reference/test_trl.py` compares the losses): comparisons of HH-harmless with prompts of at most 160 tokens
  and answers of at most 128, evenly spaced over their lengths. Every step's batch is all rows.
- Sampled answers all have the same length: the model's end-of-turn token is replaced by one that it never says.
- Accord runs its stages as a user does, timed by the seconds that `metrics.jsonl` logs. It computes DPO's reference
  once, before the first step; the line "reference included" adds that pass to every step.
- TRL's trainers are used as documented, in float32, without gradient checkpointing (their default; it makes them
  slower), without saving. Of PPO's value model only the head is trained, as on our side.
- Memory is the largest resident size of the whole process, loading included.
- The limit counts the arithmetic that the work needs (each prompt once, no gradients of frozen weights, logits only
  where an answer is scored) at the measured peak of matrix products; decoding is bound by the larger of arithmetic
  and of reading weights and cache from memory. `benchmarks/speed/limits.py` has the formulas.
"""


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Bars: how many times as fast, and what share of the peer's memory."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "accord"  # the same numbers give the same file
    from matplotlib import pyplot

    names = [name for name in ORDER if name in results][::-1]
    if not names:
        return
    figure, (speed, memory) = pyplot.subplots(1, 2, figsize=(9, 0.9 + 0.4 * len(names)), layout="constrained")
    _bars(speed, names, [results[n]["speed_ratio"] for n in names], [TARGETS[n][0] for n in names])
    speed.set_title("times as fast as the peer", loc="left", fontsize=10)
    shares = [results[n].get("memory_ratio", 0.0) for n in names]
    _bars(memory, names, shares, [TARGETS[n][1] for n in names])
    memory.set_title("share of the peer's memory", loc="left", fontsize=10)
    memory.set_yticklabels([])
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _bars(axes: Any, names: Sequence[str], values: Sequence[float], aims: Sequence[float | None]) -> None:
    axes.barh(names, values, color="#4a7fb5", height=0.6)
    for place, (value, aim) in enumerate(zip(values, aims, strict=True)):
        if value:
            axes.annotate(
                f"{value:.2g}", (value, place), xytext=(4, 0), textcoords="offset points", va="center"
            )
        if aim:
            axes.plot([aim, aim], [place - 0.4, place + 0.4], color="black", linewidth=1.5)
    axes.set_xlabel("the line is the aim", fontsize=8)
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
