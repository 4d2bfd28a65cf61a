"""The card of a data set, computed from its rows: who judged what, by which guideline, who agrees."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

from sqlalchemy import Connection, select

from accord.ledger import licences, lineage, prepared, projects, store
from accord.ledger.answers import FLAG, read_answers
from accord.ledger.exchange import project_judgements, submission_times
from accord.ledger.rankings import comparisons
from accord.ledger.schema import assignment, item, judgement
from accord.ledger.team_schema import project_guideline, project_item
from accord.records import Judgement


def data_card(connection: Connection, project_id: str) -> str:
    """Markdown. Raters have pseudonyms only. LedgerError where a row's lineage cannot be walked."""
    found = projects.find_project(connection, project_id)
    title = found.name if found else project_id
    return _card(connection, project_id, title, project_judgements(connection, project_id))


def release_card(connection: Connection, project_id: str, release: str) -> str:
    """The card of a release of the project."""
    judgements = lineage.release_judgements(connection, release)
    found = projects.find_project(connection, project_id)
    title = f"{release}, a release of {found.name if found else project_id}"
    return _card(connection, project_id, title, judgements)


def _card(connection: Connection, project_id: str, title: str, every: Sequence[Judgement]) -> str:
    judgements = [judged for judged in every if judged.purpose == "judge"]
    days = sorted(time[:10] for time in submission_times(connection, (j.id for j in judgements)).values())
    flags = Counter(
        part.key.removeprefix(FLAG)
        for parts in read_answers(connection, [j.id for j in judgements]).values()
        for part in parts
        if part.key.startswith(FLAG)
    )
    pairs, ranked = [j for j in judgements if not j.ranks], [j for j in judgements if j.ranks]
    ties = sum(judged.strength == 0 for judged in pairs)
    figures = [
        ("Judgements", f"{len(judgements)} of {len({j.item_id for j in judgements})} questions"),
        ("Ties", str(ties)),
        ("Adjudicated", f"{len(every) - len(judgements)} questions that raters disputed"),
        ("Raters", _counted(Counter({j.rater: j.rater_kind for j in judgements}.values()))),
        ("Agreement", agreement(pairs)),
        *([("Rankings", ranking_words(ranked))] if ranked else []),
        ("Collected", f"{days[0]} to {days[-1]}" if days else "nothing yet"),
        ("Withdrawn", _withdrawn(connection, project_id, [judged.id for judged in judgements])),
        ("Flags", _counted(flags)),
    ]
    parts = [
        f"# {_cell(title)}",
        "Pairs of answers that were compared on a 7-point scale, the sides drawn at random."
        + (" Of more than two answers, an order with ties." if ranked else ""),
        _table(("", ""), figures),
        "## Guidelines",
        _table(("version", "id", "judgements"), _guidelines(connection, project_id, judgements)),
        "## Where the prompts come from",
        *_sources(connection, project_id, judgements),
        "## Why they were asked",
        _table(("reason", "judgements"), _reasons(connection, judgements)),
    ]
    return "\n\n".join(parts) + "\n"


def ranking_words(ranked: Sequence[Judgement]) -> str:
    """How many, and how often two raters of one say the same of two of its answers."""
    agreed = agreement([pair for judged in ranked for pair in comparisons(judged)])
    return f"{len(ranked)}; two raters' word on two of the answers: {agreed}"


def agreement(judgements: Sequence[Judgement]) -> str:
    """How often two raters of one question prefer the same answer; ties agree with ties."""
    by_item: dict[str, list[int]] = defaultdict(list)
    for judged in judgements:
        by_item[judged.item_id].append((judged.strength > 0) - (judged.strength < 0))
    pairs = [a == b for said in by_item.values() for a, b in combinations(said, 2)]
    if not pairs:
        return "unknown: no question has two judgements"
    return f"{sum(pairs) / len(pairs):.1%} of {len(pairs)} pairs of judgements of one question"


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {_cell(name)}" for name, n in sorted(counts.items())) or "none"


def _withdrawn(connection: Connection, project_id: str, ids: Sequence[str]) -> str:
    """Of a release, also how many of its rows were taken back since it was made."""
    joined = judgement.join(assignment).join(project_item, project_item.c.item_id == assignment.c.item_id)
    columns = select(judgement.c.id).select_from(joined)
    where = (judgement.c.status == "withdrawn") & (project_item.c.project_id == project_id)
    gone = set(connection.execute(columns.where(where)).scalars())
    if inside := gone.intersection(ids):
        return f"{len(inside)} of these judgements were taken back since: use a release without them"
    return f"{len(gone)} judgements, which are not among these"


def _guidelines(
    connection: Connection, project_id: str, judgements: Sequence[Judgement]
) -> list[tuple[str, str, str]]:
    rows = select(project_guideline).where(project_guideline.c.project_id == project_id)
    versions = {row.guideline_id: row.n for row in connection.execute(rows.order_by(project_guideline.c.n))}
    used = Counter(judged.guideline for judged in judgements)
    return [(str(versions.get(id_, "")), id_, str(n)) for id_, n in sorted(used.items())]


def _sources(connection: Connection, project_id: str, judgements: Sequence[Judgement]) -> list[str]:
    """What is known of licences, and the sources with theirs."""
    named = licences.by_prompt(connection, (judged.prompt_id for judged in judgements))
    counts, known = Counter(named.values()), licences.licences(connection, project_id)
    without = sum(n for source, n in counts.items() if source not in known)
    said = "Each source's licence is its own."
    if without == len(named) and named:
        said = "No source here has a licence on record: ask before you pass this on."
    elif without:
        said += f" {without} of {len(named)} prompts have none on record: ask before you pass them on."
    rows = [(source, known.get(source, "none on record"), str(n)) for source, n in sorted(counts.items())]
    return [said, _table(("source", "licence", "prompts"), rows)]


def _reasons(connection: Connection, judgements: Sequence[Judgement]) -> list[tuple[str, str]]:
    asked, counts = Counter(judged.item_id for judged in judgements), Counter[str]()
    for some in store.chunks(asked):
        for row in connection.execute(select(item.c.id, item.c.reason).where(item.c.id.in_(some))):
            counts[prepared.short_reason(row.reason)] += asked[row.id]
    return [(reason, str(n)) for reason, n in sorted(counts.items())]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Names that people chose cannot break out of their cell."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")
