"""The pictures of performance.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speed.page import LABELS, ORDER, TARGETS, growth, picture_of, variants

OURS, THEIRS = "#4a7fb5", "#b5654a"


def draw(results: Mapping[str, Any], folder: Path) -> None:
    """performance.svg, and for each variant that has it how cost grows."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "accord"  # the same numbers give the same file
    _draw_works(results, folder / "performance.svg")
    for variant, found in variants(results).items():
        _draw_growth(growth(found), folder / picture_of(variant))


def _draw_works(results: Mapping[str, Any], path: Path) -> None:
    """Bars: how many times as fast, and what share of the peer's memory."""
    from matplotlib import pyplot

    names = [name for name in ORDER if "speed_ratio" in results.get(name, {})][::-1]
    if not names:
        return
    figure, (speed, memory) = pyplot.subplots(1, 2, figsize=(9, 0.9 + 0.4 * len(names)), layout="constrained")
    _bars(speed, names, [results[n]["speed_ratio"] for n in names], [TARGETS[n][0] for n in names])
    speed.set_title("times as fast as the peer", loc="left", fontsize=10)
    shares = [results[n].get("memory_ratio") or 0.0 for n in names]
    _bars(memory, names, shares, [TARGETS[n][1] for n in names])
    memory.set_title("share of the peer's memory", loc="left", fontsize=10)
    memory.set_yticklabels([])
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _draw_growth(series: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Seconds of a step against what is varied, a panel each; where a side was not run, its line ends."""
    from matplotlib import pyplot

    if not series:
        return
    columns = min(3, len(series))
    lines = -(-len(series) // columns)
    size = (3.2 * columns, 2.6 * lines)
    figure, axes = pyplot.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
    for panel in axes.flat[len(series) :]:
        panel.set_axis_off()
    for panel, (label, found) in zip(axes.flat, series.items(), strict=False):
        values = [row["value"] for row in found["rows"]]
        for side, name, colour in (("ours", "Accord", OURS), ("peer", "TRL", THEIRS)):
            known = [(i, r[f"{side}_seconds"]) for i, r in enumerate(found["rows"]) if f"{side}_seconds" in r]
            panel.plot(*zip(*known, strict=True), marker="o", color=colour, label=name) if known else None
        panel.set_xticks(range(len(values)), [LABELS.get(str(v), str(v)) for v in values])
        panel.set_yscale("log", base=2)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.set_title(f"{found['work']}: {label}", loc="left", fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.15)
    axes[0, 0].set_ylabel("seconds of a step")
    axes[0, 0].legend(frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _bars(axes: Any, names: Sequence[str], values: Sequence[float], aims: Sequence[float | None]) -> None:
    axes.barh(names, values, color=OURS, height=0.6)
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
