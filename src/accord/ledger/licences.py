"""Under which licence each source of questions stands. A source is what prompts name, without the line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, func, insert, select

from accord.errors import LedgerError
from accord.ledger import audit
from accord.ledger.schema import item, prompt
from accord.ledger.store import chunks
from accord.ledger.team_schema import project_item, source_licence

LONGEST = 200
NOT_RECORDED = "not recorded"  # the source of prompts that name none


def source_of(named: str) -> str:
    """The file of "file:line"; other sources as they are."""
    file, _, line = named.rpartition(":")
    return (file if line.isdigit() else named) or NOT_RECORDED


def set_licence(connection: Connection, project_id: str, source: str, licence: str, now: str) -> None:
    """An SPDX identifier or a few words; "" says that none is known any more. Raises LedgerError."""
    licence = licence.strip()
    if len(licence) > LONGEST or not licence.isprintable():
        raise LedgerError(f"a licence is an SPDX identifier or up to {LONGEST} visible characters")
    if licences(connection, project_id).get(source, "") == licence:
        return
    mine = (source_licence.c.project_id == project_id) & (source_licence.c.source == source)
    n = int(connection.execute(select(func.count()).where(mine)).scalar_one())
    row = {"project_id": project_id, "source": source, "n": n, "licence": licence, "created_at": now}
    connection.execute(insert(source_licence), row)
    entry = audit.Entry("license", "source_licence", f"{project_id}:{n}:{source}", [licence])
    audit.append(connection, [entry], now)


def licences(connection: Connection, project_id: str) -> dict[str, str]:
    """The licence by source, of the sources that have one."""
    rows = select(source_licence).where(source_licence.c.project_id == project_id)
    newest = {r.source: r.licence for r in connection.execute(rows.order_by(source_licence.c.n))}
    return {source: licence for source, licence in newest.items() if licence}


def sources(connection: Connection, project_id: str) -> list[dict[str, Any]]:
    """The sources of a project's questions, with how many there are and the licence, "" for none."""
    joined = item.join(project_item).join(prompt, prompt.c.id == item.c.prompt_id)
    columns = select(prompt.c.source).select_from(joined).where(project_item.c.project_id == project_id)
    counts = Counter(source_of(named) for named in connection.execute(columns).scalars())
    known = licences(connection, project_id)
    return [{"source": s, "items": n, "licence": known.get(s, "")} for s, n in sorted(counts.items())]


def by_prompt(connection: Connection, prompt_ids: Iterable[str]) -> dict[str, str]:
    """The source of each prompt."""
    return {
        row.id: source_of(row.source)
        for some in chunks(dict.fromkeys(prompt_ids))
        for row in connection.execute(select(prompt.c.id, prompt.c.source).where(prompt.c.id.in_(some)))
    }


def details(connection: Connection) -> Iterator[tuple[tuple[str, str], Any]]:
    """What `verify` compares with the audit trail."""
    for row in connection.execute(select(source_licence)):
        yield ("source_licence", f"{row.project_id}:{row.n}:{row.source}"), [row.licence]
