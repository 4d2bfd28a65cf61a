"""The report's figures, as inline SVG: drawn with matplotlib, coloured by the page's own style sheet."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display is needed, and none may be there
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Stand-ins that `_svg` turns into the page's colours, so that figures follow light and dark mode.
INK, FAINT, ONE, TWO = "#010203", "#040506", "#070809", "#0a0b0c"
COLOURS = {INK: "var(--ink)", FAINT: "var(--line)", ONE: "var(--one)", TWO: "var(--two)"}

Rows = Sequence[Mapping[str, float]]


def curve(rows: Rows, keys: Sequence[str], label: str, *, target: float | None = None) -> str:
    """One panel: metrics against steps, faint as measured and strong as a running mean; "" without data."""
    rows = [row for row in rows if all(_finite(row.get(key)) for key in keys)]
    if not rows:
        return ""
    figure, axes = _panel(3.4, 2.1)
    for key, colour in zip(keys, (ONE, TWO), strict=False):
        steps = [row["step"] for row in rows]
        values = [row[key] for row in rows]
        axes.plot(steps, values, color=colour, alpha=0.35, linewidth=1)
        axes.plot(steps, _smooth(values), color=colour, linewidth=1.8, label=key)
    if target is not None:
        axes.axhline(target, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate("target", (rows[0]["step"], target), fontsize=8, color=INK, va="bottom")
    axes.set_xlabel("step")
    axes.set_title(label, loc="left")
    if len(keys) > 1:
        axes.legend(fontsize=7, frameon=False, labelcolor=INK)
    return _svg(figure, label)


def whiskers(rows: Sequence[tuple[str, float, float, float]], label: str, *, reference: float) -> str:
    """Values with their intervals, one a line, against a reference."""
    figure, axes = _panel(6.4, 0.5 + 0.42 * len(rows))
    for i, (_, value, low, high) in enumerate(reversed(rows)):
        axes.plot([low, high], [i, i], color=ONE, linewidth=2.2, solid_capstyle="round")
        axes.plot([value], [i], "o", color=ONE, markersize=7)
        axes.annotate(
            f"{value:.2f}",
            (value, i),
            textcoords="offset points",
            xytext=(0, 7),
            ha="center",
            fontsize=8,
            color=INK,
        )
    axes.axvline(reference, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(rows)), [name for name, *_ in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.3)
    axes.set_xlim(0, 1)
    return _svg(figure, label)


def bars(before: Mapping[str, float], after: Mapping[str, float], label: str) -> str:
    """Mean traits before and after, side by side."""
    names = list(before)
    figure, axes = _panel(6.4, 0.6 + 0.3 * len(names))
    for offset, values, colour, name in ((0.2, before, TWO, "before"), (-0.2, after, ONE, "after")):
        axes.barh(
            [i + offset for i in range(len(names))][::-1],
            [values[n] for n in names],
            0.36,
            color=colour,
            label=name,
        )
    axes.set_yticks(range(len(names)), names[::-1])
    axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    return _svg(figure, label)


def calibration(bins: Sequence[Mapping[str, Any]], label: str) -> str:
    """How often the model's choice was the raters', against how sure it was."""
    if not bins:
        return ""
    figure, axes = _panel(3.0, 2.6)
    axes.plot([0.5, 1], [0.5, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.scatter(
        [b["predicted"] for b in bins],
        [b["observed"] for b in bins],
        color=ONE,
        s=[12 + 2 * b["n"] ** 0.5 * 6 for b in bins],
    )
    axes.set_xlabel("how sure the model was")
    axes.set_ylabel("how often it agreed")
    axes.set_xlim(0.48, 1.02)
    return _svg(figure, label)


def seconds(steps: Mapping[str, float], label: str) -> str:
    """What each step of the loop took."""
    names = [name for name, value in steps.items() if value >= 0.5]
    if not names:
        return ""
    figure, axes = _panel(6.4, 0.5 + 0.32 * len(names))
    axes.barh(range(len(names)), [steps[n] for n in names][::-1], 0.6, color=ONE)
    axes.set_yticks(range(len(names)), names[::-1])
    axes.set_xlabel("seconds")
    return _svg(figure, label)


def _panel(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_color(INK)
        text.set_fontsize(9)
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure: Figure, label: str) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # A strict content policy has no inline styles but the page's own sheet: style="a: b" -> a="b".
    text = re.sub(r' style="([^"]*)"', _as_attributes, text)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    for stand_in, colour in COLOURS.items():
        text = text.replace(stand_in, colour)
    prefix = re.sub(r"\W+", "-", label)[:24]
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}-", text)  # ids of several figures must not meet
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _as_attributes(match: re.Match[str]) -> str:
    pairs = (part.split(":", 1) for part in match[1].split(";") if ":" in part)
    return "".join(f' {key.strip()}="{value.strip()}"' for key, value in pairs if key.strip() != "font")


def _smooth(values: Sequence[float], width: int = 5) -> list[float]:
    found = []
    for i in range(len(values)):
        window = values[max(0, i - width + 1) : i + 1]
        found.append(sum(window) / len(window))
    return found


def _finite(value: float | None) -> bool:
    return value is not None and value == value and abs(value) != float("inf")
