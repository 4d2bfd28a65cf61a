"""Whether the feedback in a ledger can be trusted: the statistics of `feedback/`, of a ledger or release."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Connection, func, select

from accord.errors import DataError
from accord.feedback.adjudicated import adjudicated
from accord.feedback.agreement import agreement, ceiling
from accord.feedback.copying import copy_weights, find_copying
from accord.feedback.drift import by_group, by_guideline, change_point, over_time
from accord.feedback.gold import gold_answers
from accord.feedback.groups import Batches, group_figures
from accord.feedback.kappa import cohen_kappa, fleiss_kappa
from accord.feedback.rankings import ranking_quality
from accord.feedback.raters import rater_quality
from accord.feedback.reliability import Reliability, fit_reliability
from accord.feedback.votes import Vote, checked_votes, first_votes, strength_ratings, votes_of, winner_ratings
from accord.ledger import judging, lineage, schema
from accord.ledger.database import open_database
from accord.ledger.known import Known, known_answers
from accord.ledger.store import chunks
from accord.records import Judgement

FEWEST_SHARED, MOST_COUPLES = 10, 50  # of raters whose Cohen's kappa is told
STRENGTHS = tuple(float(s) for s in range(-3, 4))


@dataclass(frozen=True)
class Facts:
    """What the statistics need of a ledger. Lengths in characters by completion, times by judgement."""

    judgements: Sequence[Judgement]
    gold: Mapping[str, Known]
    lengths: Mapping[str, float]
    times: Mapping[str, str]


def read_facts(source: str) -> Facts:
    """Of LEDGER (every active judgement) or LEDGER#RELEASE. LedgerError when there is none."""
    path, hash_sign, release = source.rpartition("#")
    ledger, release = (path, release) if hash_sign and path else (source, "")
    database = open_database(ledger, create=False)
    try:
        with database.reading() as connection:
            if release:
                judgements = lineage.release_judgements(connection, release)
            else:
                judgements = judging.read_judgements(connection, purposes=judging.EVERYTHING)
            return facts_of(connection, judgements)
    finally:
        database.engine.dispose()


def facts_of(connection: Connection, judgements: Sequence[Judgement]) -> Facts:
    told, answer = schema.judgement.c, schema.completion.c
    times: dict[str, str] = {}
    for some in chunks(judged.id for judged in judgements):
        rows = connection.execute(select(told.id, told.submitted_at).where(told.id.in_(some)))
        times.update({row.id: row.submitted_at for row in rows})
    lengths: dict[str, float] = {}
    for some in chunks({c for judged in judgements for c in judged.completion_ids}):
        rows = connection.execute(select(answer.id, func.length(answer.body)).where(answer.id.in_(some)))
        lengths.update({row[0]: float(row[1]) for row in rows})
    return Facts(judgements, known_answers(connection), lengths, times)


def read_groups_csv(path: Path) -> dict[str, str]:
    """The group of each rater who agreed to its use, from a file with the columns rater and group."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames is None or not {"rater", "group"} <= set(reader.fieldnames):
                raise DataError(f"{path}, line 1: the header must name the columns rater and group")
            return {row["rater"]: row["group"] for row in reader if row["rater"] and row["group"]}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a table of comma-separated UTF-8 text ({error})") from error


# ------------------------------------------------------------------------------------------- the numbers


def measure(
    facts: Facts,
    *,
    groups: Mapping[str, str] | None = None,
    n_boot: int = 1000,
    seed: int = 0,
    pairs: bool = False,
) -> dict[str, Any]:
    """Everything, as plain JSON. With `pairs` also each pair's soft label, margin and weight.

    Raters who are suspected of copying share their votes in the reliability model. Rankings have figures of
    their own, and where there is nothing else only those. DataError when there are no judgements.
    """
    every = sorted(facts.judgements, key=lambda j: (facts.times.get(j.id, ""), j.id))
    ordered = [judged for judged in every if judged.purpose == "judge"]
    settings: dict[str, Any] = {"n_boot": n_boot, "seed": seed}
    votes, ranked = votes_of(ordered), ranking_quality(every, facts.gold, **settings)
    if not votes and ranked is None:
        raise DataError("there are no judgements to measure; collect some first")
    gold = gold_answers(every, facts.gold)
    raters = rater_quality(checked_votes(every), gold=gold, lengths=facts.lengths, **settings)
    everywhere = {
        "rankings": None if ranked is None else ranked.to_json(),
        "by_rater": [quality.to_json() for quality in raters],
    }
    if not votes:
        return {"judgements": 0, **everywhere}
    copying = find_copying(votes)
    weights = copy_weights(votes, copying)
    found: dict[str, Any] = {
        **everywhere,
        "judgements": len(votes),
        "pairs": len({vote.pair for vote in votes}),
        "raters": len({vote.rater for vote in votes}),
        "simulated": all(judged.rater_kind == "simulated" for judged in facts.judgements),
        "ties": sum(vote.strength == 0 for vote in votes) / len(votes),
        "agreement": _agreement(votes, n_boot, seed),
        "kappa": _kappas(votes, n_boot, seed),
        "ceiling": ceiling(ordered, n_boot=n_boot, seed=seed).to_json(),
        "copying": [asdict(suspects) for suspects in copying],
        "reliability": _reliability(fit_reliability(votes, lengths=facts.lengths, weights=weights), pairs),
        "by_guideline": [asdict(part) for part in by_guideline(votes, facts.times, **settings)],
        "over_time": [asdict(part) for part in over_time(votes, facts.times, **settings)],
        "change": asdict(change_point(votes, facts.times, seed=seed)),
        "adjudication": asdict(adjudicated(every)),
    }
    if groups is not None:
        shown, withheld = by_group(votes, groups, **settings)
        found["by_group"] = {"groups": [asdict(group) for group in shown], "withheld": withheld}
    return found


def measure_groups(facts: Facts, asked: Mapping[str, Batches], *, seed: int = 0) -> dict[str, Any]:
    """Figures of groups of raters, by attribute, where they tell nothing of fewer than five people."""
    ordered = sorted(facts.judgements, key=lambda j: (facts.times.get(j.id, ""), j.id))
    found = group_figures(votes_of(ordered), asked, lengths=facts.lengths, seed=seed)
    return {name: [asdict(group) for group in shown] for name, shown in found.items()}


def _agreement(votes: Sequence[Vote], n_boot: int, seed: int) -> dict[str, Any]:
    winners = agreement(winner_ratings(votes), level="nominal", n_boot=n_boot, seed=seed)
    graded = agreement(strength_ratings(votes), level="ordinal", n_boot=n_boot, seed=seed)
    return {"winner": winners.to_json(), "strength": graded.to_json()}


def _kappas(votes: Sequence[Vote], n_boot: int, seed: int) -> dict[str, Any]:
    winners, clusters = winner_ratings(votes), {vote.pair: vote.prompt for vote in votes}
    settings: dict[str, Any] = {"clusters": clusters, "n_boot": n_boot, "seed": seed}
    by_pair: dict[str, list[str]] = {}
    for vote in first_votes(votes):
        by_pair.setdefault(vote.pair, []).append(vote.rater)
    shared = Counter(c for who in by_pair.values() for c in itertools.combinations(sorted(who), 2))
    couples = [couple for couple, n in shared.most_common(MOST_COUPLES) if n >= FEWEST_SHARED]
    graded = {"weighting": "quadratic", "categories": STRENGTHS, **settings}
    return {
        "fleiss": fleiss_kappa(winners, **settings).to_json(),
        "fleiss_weighted": fleiss_kappa(strength_ratings(votes), **graded).to_json(),
        "cohen": [
            {"raters": couple, **cohen_kappa(winners, *couple, **settings).to_json()} for couple in couples
        ],
    }


def _reliability(fitted: Reliability, pairs: bool) -> dict[str, Any]:
    return {**(fitted if pairs else replace(fitted, pairs=())).to_json(), "n_pairs": len(fitted.pairs)}


# --------------------------------------------------------------------------------------- for people to read


def print_text(found: Mapping[str, Any], console: Console) -> None:
    """The numbers as tables, the raters with their flags last."""
    if found["rankings"]:
        _print_rankings(found["rankings"], console)
    if not found["judgements"]:
        _print_flags(found, console)
        return
    simulated = " Simulated raters, no people." if found["simulated"] else ""
    console.print(
        f"{found['judgements']} judgements of {found['pairs']} pairs by {found['raters']} raters; "
        f"{found['ties']:.0%} ties.{simulated}"
    )
    graded, winner = found["agreement"]["strength"], found["agreement"]["winner"]
    rows = [
        ("raw agreement on the winner", _shown(winner, "raw"), "how often two raters say the same"),
        (
            "Krippendorff's alpha, strengths",
            _shown(graded, "alpha"),
            graded["alpha_undefined_because"] or "0 is chance, 1 perfect",
        ),
        ("Fleiss' kappa, winner", _shown(found["kappa"]["fleiss"]), found["kappa"]["fleiss"]["meaning"]),
        (
            "ceiling of a reward model",
            _shown(found["ceiling"]),
            found["ceiling"]["undefined_because"] or "the best accuracy against one rater's answer",
        ),
    ]
    if found["change"]["p_value"] is not None:
        rows.append(
            ("change over time", f"p = {found['change']['p_value']:.3f}", f"at {found['change']['at']}")
        )
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("", "value [95 % interval]", "what it means"):
        table.add_column(title)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
    console.print(_rater_table(found))
    _print_flags(found, console)
    for suspects in found["copying"]:
        console.print(f"copying? {escape(suspects['evidence'])}")


def _print_flags(found: Mapping[str, Any], console: Console) -> None:
    for rater in found["by_rater"]:
        for flag in rater["flags"]:
            console.print(f"{escape(rater['rater'])}: {flag['kind']}: {escape(flag['evidence'])}")


def _print_rankings(found: Mapping[str, Any], console: Console) -> None:
    console.print(
        f"{found['n']} rankings of {found['questions']} questions: Kendall's tau-b {_shown(found['tau'])}, "
        f"the same said of two answers {_shown(found['same'])}",
        markup=False,
        highlight=False,
    )
    for rater in found["raters"]:
        told = [f"{rater['n']}, tau {_shown(rater['tau'])}, {_pace(rater)} s"]
        told += [f"gold {_shown(rater['known'])}"] if rater["known"]["n"] else []
        told += [f"repeats tau {_shown(rater['again'])}"] if rater["again"]["n"] else []
        console.print(f"  {rater['rater']}: {', '.join(told)}", markup=False, highlight=False)


def _rater_table(found: Mapping[str, Any]) -> Table:
    fitted = {rater["rater"]: rater for rater in found["reliability"]["raters"]}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("rater", "answers", "agreement", "gold", "left", "repeats", "seconds", "skill"):
        table.add_column(title)
    for rater in found["by_rater"]:
        parts = [rater["agreement"], rater["gold"]["accuracy"], rater["left"], rater["consistency"]]
        skill = fitted[rater["rater"]]["skill"] if rater["rater"] in fitted else {"value": None}
        cells = [*map(_shown, parts), _pace(rater), _shown(skill)]
        table.add_row(escape(rater["rater"]), str(rater["n"]), *map(escape, cells))
    return table


def _pace(rater: Mapping[str, Any]) -> str:
    seconds = rater["seconds"]["value"]
    return "-" if seconds is None else f"{seconds:.1f}"


def _shown(found: Mapping[str, Any], name: str = "value") -> str:
    low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    if found[name] is None:
        return "-"
    bounds = "" if found[low] is None else f" [{found[low]:.2f}, {found[high]:.2f}]"
    return f"{found[name]:.2f}{bounds}"
