"""Rows and files for the tests of reading data."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from accord.records import Preference, Prompt

USER, BOT = "user", "assistant"
PAIR = {"prompt": "Why is the sky blue?", "chosen": "Rayleigh scattering.", "rejected": "It is not."}
GOOD = Preference(Prompt.of("Why is the sky blue?"), "Rayleigh scattering.", "It is not.")


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in pairs]


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def bare(preference: Preference) -> Preference:
    """Without the traces of where it was read."""
    return replace(preference, prompt=replace(preference.prompt, source=""), provenance=())


def in_hh(prompt: str, answer: str) -> str:
    return f"\n\nHuman: {prompt}\n\nAssistant: {answer}"


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """`rows` in the container that the name asks for."""
    if path.name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        if ".jsonl" in path.name:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        elif ".json" in path.name:
            json.dump(rows, file, indent=2, ensure_ascii=False)
        else:
            cells = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows]
            table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if ".tsv" in path.name else ",")
            table.writeheader()
            table.writerows(cells)
