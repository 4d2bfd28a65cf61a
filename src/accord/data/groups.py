"""Groups on disk: one JSON object per line, read back exactly as they were."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accord.errors import DataError
from accord.records import Completion, Group, Message, Prompt, Sampling


def write_groups(path: Path, groups: Iterable[Group]) -> None:
    """Write groups as JSONL, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for group in groups:
                file.write(json.dumps(asdict(group), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_groups(path: Path) -> list[Group]:
    """Read what `write_groups` wrote. Raises DataError with file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); `accord sample` writes such a file"
        ) from None
    groups = []
    for number, line in enumerate(lines, 1):
        try:
            groups.append(_group(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}:{number}: not a group of samples ({error}); write it with `accord sample`"
            ) from None
    return groups


def _group(row: dict[str, Any]) -> Group:
    prompt = Prompt(
        tuple(Message(**m) for m in row["prompt"]["messages"]),
        row["prompt"]["source"],
        tuple(row["prompt"]["tags"]),
    )
    return Group(prompt, tuple(_completion(c) for c in row["completions"]))


def _completion(row: dict[str, Any]) -> Completion:
    sampling = row.pop("sampling")
    return Completion(
        **{**row, "token_ids": tuple(row["token_ids"]), "logps": tuple(row["logps"])},
        sampling=Sampling(**sampling) if sampling else None,
    )
