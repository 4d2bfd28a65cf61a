"""The audit trail: one entry per change, each hashed together with the entry before it.

An entry holds the hash of its object's content at that time. So an object that was edited behind the
ledger's back no longer agrees with its last entry, and an entry that was edited breaks the chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert

from accord.ledger import prepared
from accord.ledger.schema import audit
from accord.records import content_hash

SYSTEM = "accord"


@dataclass(frozen=True)
class Entry:
    action: str
    object: str  # the table
    object_id: str
    detail: Any  # JSON-able content of the object; only its hash is kept
    actor: str = SYSTEM


def chain_hash(row: dict[str, Any]) -> str:
    """Hash of one row of the audit table, which includes the hash of the row before."""
    fields = ("seq", "at", "actor", "action", "object", "object_id", "detail_hash", "prev_hash")
    return content_hash([row[name] for name in fields])


def append(connection: Connection, entries: Sequence[Entry], now: str) -> None:
    """Add entries to the chain, inside the transaction that makes the change."""
    if not entries:
        return
    last = connection.execute(prepared.LAST_ENTRY).first()
    last_seq, prev_hash = (last.seq, last.hash) if last else (0, "")
    rows = []
    for seq, entry in enumerate(entries, start=last_seq + 1):
        row = {
            "seq": seq,
            "at": now,
            "actor": entry.actor,
            "action": entry.action,
            "object": entry.object,
            "object_id": entry.object_id,
            "detail_hash": content_hash(entry.detail),
            "prev_hash": prev_hash,
        }
        prev_hash = row["hash"] = chain_hash(row)
        rows.append(row)
    connection.execute(insert(audit), rows)
