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
from string import Template
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
    sections = [
        _table(results),
        _variants(results.get("variants", {})),
        _scaling(results.get("scaling", {})),
        _processes(results.get("processes")),
    ]
    machine = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    template = Template(Path(__file__).with_name("page.md").read_text(encoding="utf-8"))
    shown = "\n".join(section for section in sections if section)
    return template.substitute({**machine, "versions": versions, "results": shown})


def _table(results: Mapping[str, Any]) -> str:
    names = [name for name in ORDER if name in results]
    if not names:
        return ""
    lines = [
        "![Times as fast as the peer, and share of its memory](performance.svg)\n",
        "## One step\n",
        "SmolLM2-135M in float32, LoRA of rank 16 on all linear layers. Medians, in brackets the fastest and",
        "the slowest step. The last two columns say how much of the machine's limit each side reaches.\n",
        "| work | Accord, s | TRL, s | times as fast (aim) | Accord, GB | TRL, GB | share | ours | its |",
        "|---|---|---|---|---|---|---|---|---|",
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
            seconds = f"{_seconds(r, 'ours')} | {_seconds(r, 'peer')} | {r['speed_ratio']:.1f}"
            memory = f"{r['ours_gb']:.1f} | {r['peer_gb']:.1f} | {r['memory_ratio']:.2f}"
            lines.append(f"| {label} | {name} | {seconds} | {memory} |")
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
