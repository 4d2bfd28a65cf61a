"""Out of the ledger and into it: rows that other tools read, and questions from rows that they wrote."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Connection, select

from accord.errors import LedgerError
from accord.ledger import answers, erasure, licences, lineage, projects, queue, rankings, store
from accord.ledger.answers import FLAG, RATING, Part
from accord.ledger.judging import SETTLING
from accord.ledger.schema import judgement
from accord.ledger.team_schema import WHOLE
from accord.ledger.walk import walk
from accord.records import Group, Judgement, Preference, Purpose, Question, content_hash

# What spreadsheets take for the start of a formula (OWASP, "CSV injection"), and their full-width forms.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
SHOWN_BROKEN = 3
CSV_COLUMNS = (
    "judgement",
    "item",
    "rater",
    "rater_kind",
    "prompt",
    "answer_0",
    "answer_1",
    "strength",
    "both_bad",
    "flags_0",
    "flags_1",
    "spans_0",
    "spans_1",
    "comment",
    "seconds",
    "shown_left",
    "guideline",
    "revision",
    "purpose",
    "submitted_at",
    "source",
    "licence",
)


def project_judgements(
    connection: Connection, project_id: str, purposes: Collection[Purpose] = SETTLING
) -> list[Judgement]:
    """The active judgements of a project. LedgerError, with which, when some do not lead back.

    Votes and what settles them, unless other purposes are named: checks on raters are nobody else's data.
    """
    found, broken = walk(connection, project_id)
    if broken:
        named = [f"{judgement_id} ({reason})" for judgement_id, reason in sorted(broken.items())]
        more = f" and {len(named) - SHOWN_BROKEN} more" if len(named) > SHOWN_BROKEN else ""
        raise LedgerError(
            f"{len(broken)} of {len(found.keys() | broken.keys())} judgements do not lead back to what was "
            f"asked and shown, so nothing leaves the ledger: {', '.join(named[:SHOWN_BROKEN])}{more}. "
            "`accord verify` says what is damaged; restore a backup"
        )
    return [judged for judged in found.values() if judged.purpose in purposes]


def submission_times(connection: Connection, judgement_ids: Iterable[str]) -> dict[str, str]:
    columns = select(judgement.c.id, judgement.c.submitted_at)
    return {
        row.id: row.submitted_at
        for some in store.chunks(judgement_ids)
        for row in connection.execute(columns.where(judgement.c.id.in_(some)))
    }


# Out


def preference_rows(connection: Connection, project_id: str) -> Iterator[dict[str, Any]]:
    """TRL's conversational preference rows, one per judgement, with margin and weight; ties say so.

    A ranking gives its pairs, without a margin and with the weight of `rankings.pair_weight`.
    """
    judgements = lineage.settled(project_judgements(connection, project_id))
    return (p.to_row() for p in lineage.to_preferences(connection, judgements))


def unpaired_rows(connection: Connection, project_id: str) -> Iterator[dict[str, Any]]:
    """TRL's unpaired rows, for KTO: the better answer is desirable, the worse one is not.

    Of a tie both are neither, except where the rater called both bad. Rankings say nothing about good or bad.
    """
    judgements = [j for j in lineage.settled(project_judgements(connection, project_id)) if not j.ranks]
    said = answers.read_answers(connection, [j.id for j in judgements])
    for judged, row in zip(judgements, lineage.to_preferences(connection, judgements), strict=True):
        bad = any(part.key == "both_bad" for part in said.get(judged.id, ()))
        if row.tie and not bad:
            continue
        prompt = [asdict(m) for m in row.prompt.messages]
        for text, label in ((row.chosen, not row.tie), (row.rejected, False)):
            completion = [{"role": "assistant", "content": text}]
            yield {"prompt": prompt, "completion": completion, "label": label}


def ranking_rows(connection: Connection, project_id: str) -> Iterator[dict[str, Any]]:
    """Answers with the rank of each, one row per judgement: 1 is the best, equal ranks are ties."""
    judgements = lineage.settled(project_judgements(connection, project_id))
    prompts = store.read_prompts(connection, (j.prompt_id for j in judgements))
    completions = store.read_completions(connection, (c for j in judgements for c in j.completion_ids))
    for judged in judgements:
        yield {
            "prompt": [asdict(m) for m in prompts[judged.prompt_id].messages],
            "completions": [
                [{"role": "assistant", "content": completions[c].text}] for c in judged.completion_ids
            ],
            "ranking": list(rankings.ranks_said(judged)),
        }


def demonstration_rows(connection: Connection, project_id: str) -> Iterator[dict[str, Any]]:
    """Answers as raters would have them: prompt and completion, as TRL's SFT trainer reads them."""
    judgements = project_judgements(connection, project_id)
    said = answers.read_answers(connection, [j.id for j in judgements])
    prompts = store.read_prompts(connection, (j.prompt_id for j in judgements if j.id in said))
    for judged in judgements:
        for part in said.get(judged.id, ()):
            if part.key == "edit" and part.body is not None:
                yield {
                    "prompt": [asdict(m) for m in prompts[judged.prompt_id].messages],
                    "completion": [{"role": "assistant", "content": part.body}],
                }


def judgement_rows(connection: Connection, project_id: str) -> Iterator[dict[str, Any]]:
    """Everything that was said, in canonical slots, with pseudonyms for people."""
    judgements = project_judgements(connection, project_id)
    ids = [judged.id for judged in judgements]
    said, times = answers.read_answers(connection, ids), submission_times(connection, ids)
    sources = licences.by_prompt(connection, (j.prompt_id for j in judgements))
    licensed = licences.licences(connection, project_id)
    prompts = store.read_prompts(connection, (j.prompt_id for j in judgements))
    completions = store.read_completions(connection, (c for j in judgements for c in j.completion_ids))
    for judged in judgements:
        parts = said.get(judged.id, [])
        yield {
            "judgement": judged.id,
            "item": judged.item_id,
            "rater": judged.rater,
            "rater_kind": judged.rater_kind,
            "prompt": [asdict(m) for m in prompts[judged.prompt_id].messages],
            "answers": [completions[c].text for c in judged.completion_ids],
            "policies": [completions[c].policy_version for c in judged.completion_ids],
            "strength": None if judged.ranks else judged.strength,
            "ranks": list(judged.ranks) or None,
            "both_bad": any(part.key == "both_bad" for part in parts),
            "flags": [_named(parts, FLAG, slot) for slot in range(len(judged.completion_ids))],
            "ratings": _ratings(parts, len(judged.completion_ids)),
            "spans": _spans(parts, [completions[c].text for c in judged.completion_ids]),
            "comment": next((p.body or "" for p in parts if p.key == "comment" and p.slot == WHOLE), ""),
            "seconds": judged.seconds,
            "shown": list(judged.shown),
            "guideline": judged.guideline,
            "revision": judged.revision,
            "purpose": judged.purpose,
            "submitted_at": times[judged.id],
            "source": sources[judged.prompt_id],
            "licence": licensed.get(sources[judged.prompt_id], ""),
        }


def _named(parts: Sequence[Part], prefix: str, slot: int) -> list[str]:
    return sorted(p.key.removeprefix(prefix) for p in parts if p.key.startswith(prefix) and p.slot == slot)


def _ratings(parts: Sequence[Part], slots: int) -> dict[str, list[int | None]]:
    rated: dict[str, list[int | None]] = {}
    for part in parts:
        if part.key.startswith(RATING):
            empty: list[int | None] = [None] * slots
            rated.setdefault(part.key.removeprefix(RATING), empty)[part.slot] = part.number
    return rated


def _spans(parts: Sequence[Part], texts: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Marked passages by slot, in code points of the answer's text."""
    spans = answers.from_parts(parts, range(len(texts))).spans
    return [
        [
            {**places, "quote": text[span.start : span.end], "label": span.label, "note": span.note}
            for span in spans
            if span.position == slot
            for places in [{"start": span.start, "end": span.end}]
        ]
        for slot, text in enumerate(texts)
    ]


def _span_lines(spans: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(
        f"{s['label']} {s['start']}-{s['end']}: {s['quote']}" + (f" ({s['note']})" if s["note"] else "")
        for s in spans
    )


def judgement_csv(connection: Connection, project_id: str) -> Iterator[str]:
    """The same as lines of CSV, for spreadsheets: no text in it can run as a formula.

    Rankings bring more columns, at the end.
    """
    rows = list(judgement_rows(connection, project_id))
    most = max((len(row["answers"]) for row in rows), default=2)
    extra = [f"{name}_{slot}" for slot in range(2, most) for name in ("answer", "flags", "spans")]
    columns = [*CSV_COLUMNS, *(["ranks", *extra] if extra else [])]
    yield csv_line(columns)
    for row in rows:
        turns = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in row["prompt"])
        flat = {
            **row,
            "prompt": turns,
            "ranks": " ".join(map(str, row["ranks"] or ())),
            "shown_left": row["shown"][0],
        }
        for slot, text in enumerate(row["answers"]):
            flat[f"answer_{slot}"] = text
            flat[f"flags_{slot}"] = " ".join(row["flags"][slot])
            flat[f"spans_{slot}"] = _span_lines(row["spans"][slot])
        yield csv_line(["" if (cell := flat.get(name)) is None else cell for name in columns])


def csv_line(cells: Sequence[Any]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\r\n").writerow([_harmless(cell) for cell in cells])
    return out.getvalue()


def _harmless(cell: Any) -> Any:
    """Text that a spreadsheet would run gets an apostrophe before it; numbers stay numbers."""
    risky = isinstance(cell, str) and cell.lstrip(" \xa0\u3000\ufeff").startswith(FORMULA)
    return f"'{cell}" if risky else cell


def parquet(rows: Iterable[Mapping[str, Any]], about: Mapping[str, str] | None = None) -> bytes:
    """The same rows as a Parquet file. LedgerError when there are none, because then there are no columns.

    `about` goes into the file's metadata.
    """
    import pyarrow  # slow to import
    import pyarrow.parquet

    rows = list(rows)
    if not rows:
        raise LedgerError("there is nothing to write yet; collect some answers first")
    out = io.BytesIO()
    table = pyarrow.Table.from_pylist(_whole(rows))
    told = {**(table.schema.metadata or {}), **(about or {})}
    pyarrow.parquet.write_table(table.replace_schema_metadata(told), out)
    return out.getvalue()


def _whole(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows that all have every column: Parquet takes its columns from the first."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, False if name == "tie" else None) for name in names} for row in rows]


# In


def add_preferences(
    connection: Connection,
    project_id: str,
    rows: Sequence[Preference],
    *,
    overlap: int,
    reason: str,
    gold: bool,
    now: str,
) -> tuple[int, int]:
    """Ask about pairs that were read from a file: how many are new, and how many were known.

    With `gold`, which answer the rows call better is kept as the known answer, to grade raters by.
    """
    questions = [Question(_group(row), reason, overlap=overlap) for row in rows]
    found = projects.add_questions(connection, project_id, questions, now)
    if gold:
        decided = _decided([queue.item_id_of(q.group) for q in questions], rows)
        mine = set(projects.item_ids(connection, project_id)) - erasure.erased(connection, "item")
        decided = {item_id: row for item_id, row in decided.items() if item_id in mine}
        groups = store.read_groups(connection, decided)
        projects.set_gold(connection, _known(groups, decided), now)
    return found


def _group(row: Preference) -> Group:
    """The two answers in an order that does not tell which is better."""
    return Group.of(row.prompt, *sorted((row.chosen, row.rejected), key=content_hash))


def _decided(item_ids: Sequence[str], rows: Sequence[Preference]) -> dict[str, Preference]:
    """The rows by item; an item on which rows disagree, or of which one is a tie, has no known answer."""
    by_item: dict[str, list[Preference]] = {}
    for item_id, row in zip(item_ids, rows, strict=True):
        by_item.setdefault(item_id, []).append(row)
    return {
        item_id: said[0]
        for item_id, said in by_item.items()
        if len({row.chosen for row in said}) == 1 and not any(row.tie for row in said)
    }


def _known(groups: Mapping[str, Group], rows: Mapping[str, Preference]) -> dict[str, int]:
    strengths = {}
    for item_id, group in groups.items():
        row = rows[item_id]
        sign = 1 if group.completions[0].text == row.chosen else -1
        strengths[item_id] = sign * min(3, max(1, round(abs(row.margin)) or 2))
    return strengths


def named_source(rows: Iterable[Preference], path: str, name: str) -> list[Preference]:
    """Rows whose prompts come from `name` and not from the temporary file that was read."""
    return [
        replace(row, prompt=replace(row.prompt, source=row.prompt.source.replace(path, name, 1)))
        for row in rows
    ]
