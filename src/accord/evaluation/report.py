"""The report of a run: report.json for programs, report.html for people. One file, nothing loaded from afar.

What a model wrote is hostile text: it goes through Jinja's escaping, and control and direction characters
are made visible.
"""

from __future__ import annotations

import json
import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from accord.evaluation import plots

Rows = Sequence[Mapping[str, float]]

SHOWN = 12  # transcripts that stand open; the rest are folded
LONGEST = 4000  # characters of an answer that are shown

# (metrics, title, what it shows and what a bad one looks like)
METHOD_CURVES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("objective/scores",),
        "reward",
        "The reward model's score of the policy's fresh answers; 0 is the average before. It should rise "
        "and level off. A score that climbs while answers get worse to read is reward hacking.",
    ),
    (
        ("objective/kl",),
        "KL to the reference, nats",
        "How far the policy has moved from the model it started as. It should settle near its target; "
        "running away means that the leash is too loose.",
    ),
    (
        ("objective/entropy",),
        "entropy, nats per answer",
        "How varied the answers still are. A fall towards 0: the policy says the same to everybody.",
    ),
    (
        ("loss/value_avg",),
        "value loss",
        "How far the critic's forecast of the reward is off. It should fall.",
    ),
    (
        ("policy/clipfrac_avg",),
        "clip fraction",
        "Share of tokens at which the clip cut the update short. Above about 0.3, steps are too large.",
    ),
    (
        ("completions/mean_length",),
        "answer length, tokens",
        "A reward model that merely likes long answers shows here first.",
    ),
    (
        ("completions/clipped_ratio",),
        "share of answers cut off",
        "Answers that did not end by themselves. It should stay near 0.",
    ),
)


def write_report(
    report: Mapping[str, Any],
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    transcripts: Sequence[Mapping[str, Any]],
    out: Path,
) -> None:
    """Write `out/report.json` and `out/report.html`, each atomically; what is not finite becomes null."""
    clean = _plain(report)
    _write(out / "report.json", json.dumps(clean, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    _write(out / "report.html", render(clean, curves, transcripts))


def render(
    report: Mapping[str, Any],
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    transcripts: Sequence[Mapping[str, Any]],
) -> str:
    """The page. Pieces that a run does not have become a sentence that says so."""
    environment = Environment(
        loader=PackageLoader("accord.evaluation", ""), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["number"] = _number
    environment.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.0f} %"
    environment.filters["safe_text"] = visible
    ordered = by_change(transcripts)
    return environment.get_template("report.html").render(
        r=report,
        figures=_figures(report, curves),
        method=method_name(report),
        method_panels=_method_panels(report, curves),
        shown=spread(ordered, SHOWN),
        folded=ordered,
    )


def method_name(report: Mapping[str, Any]) -> str:
    """How the method is written in a sentence."""
    name = str(report.get("method", "ppo"))
    return "online DPO" if name == "online-dpo" else name.upper()


def visible(text: str) -> str:
    """`text` with control, direction and zero-width characters shown as their code, cut at LONGEST."""
    cut = text[:LONGEST]
    marks = "".join(
        f"⟨U+{ord(c):04X}⟩"
        if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn", "Cs") and c not in "\n\t"
        else c
        for c in cut
    )
    return marks if len(cut) == len(text) else f"{marks} … [{len(text) - LONGEST} more characters]"


def by_change(transcripts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """From the largest gain in reward to the largest loss."""
    return sorted(transcripts, key=lambda t: t["reward_before"] - t["reward_after"])


def spread(ordered: Sequence[Mapping[str, Any]], n: int) -> list[Mapping[str, Any]]:
    """n of them, evenly spaced, the first and the last among them."""
    if len(ordered) <= n:
        return list(ordered)
    return [ordered[round(i * (len(ordered) - 1) / (n - 1))] for i in range(n)]


def _figures(
    report: Mapping[str, Any], curves: Mapping[str, Sequence[Mapping[str, float]]]
) -> dict[str, Markup]:
    policy, best, rm = report.get("policy"), report.get("best_of_n"), report.get("reward_model")
    wins = []
    if policy and policy["win_rate_vs_sft"] is not None:
        wins.append((method_name(report), policy["win_rate_vs_sft"], policy["low"], policy["high"]))
    if best:
        wins.append((f"best of {best['n_samples']}", best["win_rate_vs_sft"], best["low"], best["high"]))
    last_reward = _last(curves, "reward")
    found = {
        "wins": plots.whiskers(wins, "win rate against the model before", reference=0.5) if wins else "",
        "traits": plots.bars(policy["traits_before"], policy["traits_after"], "traits before and after")
        if policy and "traits_before" in policy
        else "",
        "calibration": plots.calibration(rm["card"]["calibration"]["bins"], "calibration") if rm else "",
        "seconds": plots.seconds(report["seconds"], "seconds per step"),
        "sft": plots.curve(curves.get("sft", []), ["loss"], "SFT loss, nats per token"),
        "rm_loss": plots.curve(last_reward, ["loss"], "reward model: loss"),
        "rm_accuracy": plots.curve(last_reward, ["rewards/accuracies"], "reward model: training accuracy"),
    }
    return {name: Markup(svg) for name, svg in found.items()}


def _method_panels(
    report: Mapping[str, Any], curves: Mapping[str, Sequence[Mapping[str, float]]]
) -> list[tuple[Markup, str]]:
    rows = _last(curves, str(report.get("method", "ppo")))
    target = (report.get("policy") or {}).get("kl_target")
    panels = []
    for keys, title, text in METHOD_CURVES:
        svg = plots.curve(rows, keys, title, target=target if keys[0] == "objective/kl" else None)
        if svg:
            panels.append((Markup(svg), text))
    return panels


def _last(curves: Mapping[str, Rows], step: str) -> Rows:
    """The metrics of the last round's step of that name."""
    found = [rows for name, rows in curves.items() if name.endswith(step)]
    return found[-1] if found else []


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _plain(value: Any) -> Any:
    """JSON values only; NaN and infinities become None."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
