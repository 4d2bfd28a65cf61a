"""From what `accord quality` prints to the figures of the quality page. No number is computed here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from accord.ledger.groups import Attribute

Figure = dict[str, Any]
Found = Mapping[str, Any]

Z = 1.959963984540054  # of a 95 % interval
FEW = 40  # values below which agreement is known only roughly


def figures_of(found: Found, guidelines: Mapping[str, int]) -> dict[str, Any]:
    """The page's figures of a measurement (`stages.quality.measure`); `guidelines`: version number by id."""
    ranked = _rankings(found["rankings"]) if found["rankings"] else []
    orders = {rater["rater"]: rater for rater in (found["rankings"] or {"raters": ()})["raters"]}
    if not found["judgements"]:
        raters = [_rater(rater, None, (), orders.get(rater["rater"])) for rater in found["by_rater"]]
        return {"summary": ranked, "raters": raters}
    fitted = {rater["rater"]: rater for rater in found["reliability"]["raters"]}
    return {
        "summary": [*_team(found), *ranked],
        "raters": [
            _rater(rater, fitted.get(name), found["copying"], orders.get(name))
            for rater in found["by_rater"]
            for name in [rater["rater"]]
        ],
        "guidelines": sorted(
            (
                {"n": guidelines.get(part["name"], 0), "answered": part["n_votes"], "figures": _part(part)}
                for part in found["by_guideline"]
            ),
            key=lambda row: int(row["n"]),
        ),
        "windows": [
            {
                "name": part["name"],
                "start": part["start"],
                "end": part["end"],
                "answered": part["n_votes"],
                "figures": _part(part),
            }
            for part in found["over_time"]
        ],
        "couples": [
            {"pseudonyms": list(pair["raters"]), "figure": figure("cohen", "Cohen's kappa", "alpha", pair)}
            for pair in found["kappa"]["cohen"]
        ],
    }


def figure(key: str, label: str, unit: str, estimate: Found) -> Figure:
    """Of a value with bounds, n and a meaning; without a value, the meaning says why."""
    unknown = estimate["value"] is None
    said = estimate.get("meaning", "")
    return {
        "key": key,
        "label": label,
        "unit": unit,
        "value": estimate["value"],
        "low": estimate["low"],
        "high": estimate["high"],
        "n": estimate["n"],
        "meaning": "" if unknown else said,
        "undefined_because": (estimate.get("undefined_because") or said) if unknown else "",
    }


def share_figure(key: str, label: str, hits: int, n: int, meaning: str) -> Figure:
    """A share with Wilson's interval (1927)."""
    if n == 0:
        nothing = {"value": None, "low": None, "high": None, "n": 0, "meaning": "nothing was observed"}
        return figure(key, label, "share", nothing)
    p, shrink = hits / n, 1 + Z**2 / n
    centre = (p + Z**2 / (2 * n)) / shrink
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / shrink
    low, high = max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))
    return figure(key, label, "share", {"value": p, "low": low, "high": high, "n": n, "meaning": meaning})


def figures_of_groups(
    asked: Sequence[Attribute], found: Mapping[str, Sequence[Found]]
) -> list[dict[str, Any]]:
    """For each thing that raters are asked: the groups that may be shown, and the names of the others."""
    rows = []
    for attribute in asked:
        shown = {
            group["value"]: {
                "name": group["value"],
                "answered": group["n_votes"],
                "figures": [
                    figure("people", "People", "count", _count(group["n_people"])),
                    figure("within", "Agree within", "share", group["within"]),
                    figure("across", "Agree with other groups", "share", group["across"]),
                    figure("ties", "Called equal", "share", group["ties"]),
                    figure("longer", "Longer chosen", "share", group["longer"]),
                ],
            }
            for group in found.get(attribute.id, ())
        }
        rows.append(
            {
                "name": attribute.name,
                "groups": [shown[value] for value in attribute.choices if value in shown],
                "withheld": [value for value in attribute.choices if value not in shown],
            }
        )
    return rows


def _count(n: int) -> Found:
    return {"value": n, "low": None, "high": None, "n": n, "meaning": "people, in whole batches of five"}


# Everybody together


def _rankings(found: Found) -> list[Figure]:
    return [
        figure("tau", "Kendall's tau of rankings", "alpha", found["tau"]),
        figure("ranked_alike", "Raw agreement inside rankings", "share", found["same"]),
        *_settled_rankings(found),
    ]


def _settled_rankings(found: Found) -> list[Figure]:
    """How many disputed rankings were adjudicated, and how the votes lay to what came of it; [] for none."""
    if not found["settled"]:
        return []
    meaning = "rankings about which raters disagreed, and which an adjudicator settled"
    n = found["settled"]
    counted = {"value": n, "low": None, "high": None, "n": n, "meaning": meaning}
    return [
        figure("settled_rankings", "Adjudicated rankings", "count", counted),
        figure("settled_tau", "Votes and adjudicator, tau", "alpha", found["settled_tau"]),
    ]


def _team(found: Found) -> list[Figure]:
    winner, graded, kappa = found["agreement"]["winner"], found["agreement"]["strength"], found["kappa"]
    nothing = "no pair has answers of two raters yet, so there is nothing to compare"
    raw = {
        "value": winner["raw"],
        "low": winner["raw_low"],
        "high": winner["raw_high"],
        "n": winner["n_pairable"],
        "meaning": "how often two raters say the same of a pair: one, the other, equal"
        if winner["raw"] is not None
        else nothing,
    }
    alpha = {
        "value": graded["alpha"],
        "low": graded["alpha_low"],
        "high": graded["alpha_high"],
        "n": graded["n_pairable"],
        "meaning": graded["alpha_undefined_because"]
        or "agreement on the seven grades beyond chance: 0 is chance, 1 is perfect",
    }
    ceiling = {
        **found["ceiling"],
        "meaning": "the best accuracy that any reward model can be expected to reach against one new rater",
    }
    return [
        figure("raw", "Raw agreement", "share", raw),
        figure("alpha", "Krippendorff's alpha", "alpha", alpha),
        figure("ceiling", "Ceiling for a reward model", "share", ceiling),
        figure("fleiss", "Fleiss' kappa", "alpha", kappa["fleiss"]),
        figure("fleiss_weighted", "Fleiss' kappa, graded", "alpha", kappa["fleiss_weighted"]),
        figure("change", "Did agreement change?", "p", _change(found["change"])),
        figure("skill", "A typical rater's skill", "share", _typical(found["reliability"])),
        *_settled(found["adjudication"]),
    ]


def _settled(found: Found) -> list[Figure]:
    """How many disputed pairs were adjudicated, and how often the majority had been right; [] for none."""
    if not found["n"]:
        return []
    meaning = "pairs about which raters disagreed, and which an adjudicator settled"
    counted = {"value": found["n"], "low": None, "high": None, "n": found["n"], "meaning": meaning}
    right = figure("majority_right", "Majority was right", "share", found["majority_right"])
    return [figure("adjudicated", "Adjudicated", "count", counted), right]


def _change(change: Found) -> Found:
    at = f"; the largest change was at {change['at'][:16].replace('T', ' ')}" if change["at"] else ""
    n = change["before"]["n"] + change["after"]["n"]
    meaning = change["meaning"] + at
    return {"value": change["p_value"], "low": None, "high": None, "n": n, "meaning": meaning}


def _typical(reliability: Found) -> Found:
    """The rater in the middle, as fitted; her interval is her own."""
    known = [r["skill"] for r in reliability["raters"] if r["skill"]["value"] is not None]
    if not known:
        why = reliability["undefined_because"] or "no rater shares a pair with another"
        return {"value": None, "low": None, "high": None, "n": 0, "meaning": why}
    middle = sorted(known, key=lambda skill: float(skill["value"]))[(len(known) - 1) // 2]
    text = "the rater in the middle, as fitted: how often she names the better one; 0.5 is a coin"
    return {**middle, "meaning": text}


def _part(part: Found) -> list[Figure]:
    return [
        figure("raw", "Same winner", "share", part["raw"]),
        figure("alpha", "Krippendorff's alpha", "alpha", part["alpha"]),
        figure("left", "Left chosen", "share", part["left"]),
    ]


# One by one


def _rater(
    rater: Found, fitted: Found | None, copying: Sequence[Found], orders: Found | None
) -> dict[str, Any]:
    figures = [
        figure("rest", "Agrees with the rest", "share", rater["with_majority"]),
        figure("agreement", "Agrees with another", "share", rater["agreement"]),
        figure("gold", "Gold right", "share", rater["gold"]["accuracy"]),
        figure("consistency", "Same on repeats", "share", rater["consistency"]),
        figure("left", "Left chosen", "share", rater["left"]),
        figure("longer", "Longer, more than others", "share", rater["longer_than_others"]),
        figure("seconds", "Time for a question", "seconds", rater["seconds"]),
    ]
    if fitted is not None:
        figures += [
            figure("skill", "Skill, as fitted", "share", fitted["skill"]),
            figure("lapse", "Answers without looking", "share", fitted["lapse"]),
        ]
    if orders is not None:
        of_pairs = rater["n"] > 0
        figures = [f for f in figures if of_pairs or f["value"] is not None or f["key"] == "gold"]
        figures += _orders(orders)
    warnings = [f"{flag['kind']}: {flag['evidence']}" for flag in rater["flags"]]
    warnings += [f"copying? {some['evidence']}" for some in copying if rater["rater"] in some["raters"]]
    verdict = rater["gold"]["verdict"]
    return {
        "pseudonym": rater["rater"],
        "answered": rater["n"] + (orders["n"] if orders else 0),
        "figures": figures,
        "warnings": warnings,
        "gold": {"verdict": verdict, "decided_after": rater["gold"]["decided_after"]},
    }


def _orders(found: Found) -> list[Figure]:
    """A rater's rankings, in units of their own: orders by tau, comparisons inside them as shares."""
    return [
        figure("tau", "Rankings: tau with others", "alpha", found["tau"]),
        figure("ranked_alike", "Inside rankings: agrees with another", "share", found["same"]),
        figure("known", "Inside gold rankings: right", "share", found["known"]),
        figure("again", "Rankings: tau on repeats", "alpha", found["again"]),
        figure("ranked_seconds", "Time for a ranking", "seconds", found["seconds"]),
    ]


# What to do


def advice(summary: Sequence[Figure], raters: Sequence[Found], n: int, pending: bool) -> list[str]:
    """Sentences for the manager, the most important first."""
    if n == 0:
        return ["Nothing has been answered yet: invite raters and bring in questions."]
    figures = {some["key"]: some for some in summary}
    said = []
    if "alpha" in figures:
        said.append(_on_agreement(figures["alpha"]))
    if flagged := [rater["pseudonym"] for rater in raters if rater["warnings"]]:
        who = ", ".join(flagged[:5]) + (" and others" if len(flagged) > 5 else "")
        said.append(f"Something stands out about {who}: see the table of raters.")
    change = figures.get("change")
    if change and change["value"] is not None and change["value"] < 0.05:
        said.append("Agreement changed in the course of time; the windows below show when.")
    if pending:
        said.append(
            "New answers are being worked in: counts are fresh already, the statistics follow by themselves."
        )
    return said


def _on_agreement(alpha: Figure) -> str:
    if alpha["value"] is None:
        return "Agreement is not known yet. Ask two or three people about some of the questions."
    if alpha["low"] is None or alpha["n"] < FEW:
        return "Few questions have two answers so far, so agreement is known only roughly."
    if alpha["high"] < 0.4:
        return "Raters often disagree. Talk about examples with them, and sharpen the guideline."
    if alpha["low"] >= 0.4:
        return "Raters agree clearly more than by chance; a reward model can learn from this."
    return "Raters agree somewhat; more answers will tell how much."
