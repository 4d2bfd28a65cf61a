"""docs/performance.md: the tables of what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
LABELS: Mapping[str, str] = {"smollm2-135m-instruct": "SmolLM2-135M", "random-0.5b": "random 0.5B"}
ABSENT = "–"


def page(results: Mapping[str, Any]) -> str:
    """The whole page."""
    sections = [_limits(results.get("limits", {}))]
    for variant, found in variants(results).items():
        sections += [
            _table(found, variant),
            _growth(found, variant),
            _processes(found.get("processes", {}), variant),
        ]
    machine = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    template = Template(Path(__file__).with_name("page.md").read_text(encoding="utf-8"))
    shown = "\n".join(section for section in sections if section)
    return template.substitute({**machine, "versions": versions, "results": shown})


def variants(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The results proper, under no name, and those of each variant."""
    return {"": results, **results.get("variants", {})}


def growth(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What is varied -> {"work", "rows"}."""
    found = results.get("scaling", {})
    return {label: series for label, series in found.items() if isinstance(series, dict) and series["rows"]}


def picture_of(variant: str) -> str:
    """The file that shows a variant's growth."""
    return f"performance-scaling{'-' * bool(variant)}{variant}.svg"


def _titled(title: str, variant: str) -> str:
    return f"## {title}{f' ({variant})' if variant else ''}\n"


def _limits(found: Mapping[str, Any]) -> str:
    dtypes = [dtype for dtype in found if isinstance(found[dtype], dict)]
    if not dtypes:
        return ""
    ways = list(dict.fromkeys(way for dtype in dtypes for way in found[dtype]["products"]))
    lines = [
        "## What the machine can do\n",
        "Matrix products in GFLOP/s with all threads, by torch itself and by oneDNN (limits are counted with",
        "the best), and GB/s read from memory.\n",
        f"| precision | {' | '.join(ways)} | memory |",
        f"|---|{'---|' * len(ways)}---|",
    ]
    for dtype in dtypes:
        products = found[dtype]["products"]
        shown = [f"{products[way]:.0f}" if way in products else ABSENT for way in ways]
        lines.append(f"| {dtype} | {' | '.join(shown)} | {found[dtype]['gbytes']:.0f} |")
    return "\n".join(lines) + "\n"


def _table(results: Mapping[str, Any], variant: str) -> str:
    names = [name for name in ORDER if name in results]
    if not names:
        return ""
    works = {name: results[name] for name in names if name != "start-up"}
    picture = ["![Times as fast as the peer, and share of its memory](performance.svg)\n"]
    lines = [
        *([] if variant else picture),
        _titled("One step", variant),
        *_conditions(works),
        "Medians, in brackets the fastest and the slowest step. *At most* is how many times as fast as TRL a",
        "step at the machine's limit would be. The last columns say how much of that limit each side",
        "reaches, and the peak of matrix products, measured right before it.\n",
        f"| work | Accord, s | TRL, s | times as fast{'' if variant else ' (aim)'} | at most "
        "| Accord, GB | TRL, GB | share | ours | its | GFLOP/s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(_row(name, results[name], (None, None) if variant else TARGETS[name]) for name in names),
        *_reasons((name, results[name]) for name in names),
    ]
    if not variant:
        lines.append(
            "\nSampling is compared with `generate()`, PPO with TRL 1.12 (the last with PPO), start-up with "
            "`trl --help`; all\nelse with TRL 1.16."
        )
    return "\n".join(lines) + "\n"


def _conditions(works: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How these works ran; where not all of them ran alike, a line for each way, with those that did."""
    found: dict[str, list[str]] = {}
    for name, r in works.items():
        if "dtype" not in r:
            continue
        model = LABELS.get(r["model"], r["model"])
        peer = "" if r["peer_dtype"] == r["dtype"] else f" (TRL: {r['peer_dtype']})"
        found.setdefault(f"{model} in {r['dtype']}{peer}, {r['trains']}.", []).append(name)
    if len(found) < 2:
        return list(found)
    return [f"- {', '.join(names)}: {line}" for line, names in found.items()] + [""]


def _row(name: str, r: Mapping[str, Any], aims: tuple[float | None, float | None]) -> str:
    speed, memory = aims
    cells = [
        f"{name}: {r['what']}" if "what" in r else name,
        _seconds(r, "ours"),
        _seconds(r, "peer"),
        _bold(r.get("speed_ratio"), ".1f") + (f" (≥ {speed:g})" if speed else ""),
        _number(_at_most(r), ".1f"),
        _number(r.get("ours_gb"), ".1f"),
        _number(r.get("peer_gb"), ".1f"),
        _bold(r.get("memory_ratio"), ".2f") + (f" (≤ {memory:.2f})" if memory else ""),
        _number(r.get("fraction_of_limit"), ".0%"),
        _number(r.get("peer_fraction_of_limit"), ".0%"),
        _number(r.get("gflops"), ".0f"),
    ]
    return f"| {' | '.join(cells)} |"


def _at_most(r: Mapping[str, Any]) -> float | None:
    limit, peer = r.get("limit_seconds"), r.get("peer_seconds")
    return peer / limit if limit and peer else None


def _seconds(r: Mapping[str, Any], side: str) -> str:
    span = r.get(f"{side}_range")
    shown = _number(r.get(f"{side}_seconds"), ".2f")
    return shown + (f" [{span[0]:.2f}, {span[1]:.2f}]" if span else "")


def _number(value: float | None, form: str) -> str:
    return ABSENT if value is None else format(value, form)


def _bold(value: float | None, form: str) -> str:
    return ABSENT if value is None else f"**{value:{form}}**"


def _reasons(rows: Iterator[tuple[Any, Mapping[str, Any]]]) -> list[str]:
    """Why the peer is missing where it is, after the table."""
    found = [f"\nTRL at {value}: {r['peer_failed']}." for value, r in rows if "peer_failed" in r]
    return found


def _growth(results: Mapping[str, Any], variant: str) -> str:
    series = growth(results)
    if not series:
        return ""
    tables = [
        _titled("How cost grows", variant),
        "One step after a first one, on rows made of words: 4 pairs with prompts of 80 tokens and answers of",
        "40 unless varied, or 16 sampled answers of 32 tokens. Seconds are on a logarithmic scale.",
        f"\n![Seconds of a step against what is varied]({picture_of(variant)})",
    ]
    for label, found in series.items():
        tables += [
            f"\n| {label} ({found['work']}) | Accord, s | TRL, s | times as fast | Accord, GB | TRL, GB |",
            "|---|---|---|---|---|---|",
        ]
        for r in found["rows"]:
            cells = [
                LABELS.get(str(r["value"]), str(r["value"])),
                _seconds(r, "ours"),
                _seconds(r, "peer"),
                _number(r.get("speed_ratio"), ".1f"),
                _number(r.get("ours_gb"), ".1f"),
                _number(r.get("peer_gb"), ".1f"),
            ]
            tables.append(f"| {' | '.join(cells)} |")
        tables += _reasons((f"{label} = {r['value']}", r) for r in found["rows"])
    return "\n".join(tables) + "\n"


def _processes(found: Mapping[str, Any], variant: str) -> str:
    works = {name: row for name, row in found.items() if isinstance(row, dict)}
    if not works:
        return ""
    lines = [
        _titled("Two processes", variant),
        "Seconds of a step in one process with all cores, and in two processes with half of the cores each,",
        "on the same micro-batches. The cores are the same: on one machine little can be won.\n",
        "| work | side | one process | two processes | times as fast |",
        "|---|---|---|---|---|",
    ]
    for name, r in works.items():
        who = "Accord" if r["side"] == "ours" else "TRL"
        lines.append(f"| {name}: {r['what']} | {who} | {r['one']:.2f} | {r['two']:.2f} | {r['ratio']:.2f} |")
    return "\n".join(lines) + "\n"
