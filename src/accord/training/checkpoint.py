"""Checkpoints: written to a temporary folder, flushed, and renamed, so that a half-written one cannot exist.

A checkpoint is `state.safetensors` (parameters, optimiser, RNG) and `state.json` (step, what the stage
keeps, a digest of the tensors' file, and a fingerprint of the run it belongs to).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from accord.errors import CheckpointError
from accord.training.distributed import leads

KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    step: int
    tensors: Mapping[str, Tensor]
    extra: Mapping[str, Any]


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], extra: Mapping[str, Any], fingerprint: str
) -> None:
    """Write `folder/step-XXXXXX` atomically and drop all but the newest two.

    Of several processes, which all have the same state, the first writes. Raises CheckpointError when the
    disk refuses; older checkpoints are then untouched.
    """
    if not leads():
        return
    target = folder / f"step-{step:06d}"
    temporary = folder / f".{target.name}.{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary / "state.safetensors")
        state = {
            "step": step,
            "fingerprint": fingerprint,
            "sha256": _sha256(temporary / "state.safetensors"),
            "extra": dict(extra),
        }
        (temporary / "state.json").write_text(json.dumps(state, indent=1))
        for path in temporary.iterdir():
            _flush(path)
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{target}: the checkpoint could not be written ({error}); make room and run the command again"
        ) from error
    for old in steps(folder)[:-KEEP]:
        shutil.rmtree(folder / f"step-{old:06d}", ignore_errors=True)
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def load_checkpoint(folder: Path, fingerprint: str) -> Checkpoint | None:
    """The newest checkpoint in `folder`, or None.

    Raises CheckpointError if it is damaged, or was made by a run with other settings or data.
    """
    found = steps(folder)
    if not found:
        return None
    path = folder / f"step-{found[-1]:06d}"
    advice = f"delete {path} to go on from the one before, or {folder} to start again"
    try:
        state = json.loads((path / "state.json").read_text())
        intact = _sha256(path / "state.safetensors") == state["sha256"]
        tensors = load_file(path / "state.safetensors") if intact else {}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{path}: the checkpoint is damaged ({error}); {advice}") from error
    if not intact:
        raise CheckpointError(f"{path}: the checkpoint is damaged (its digest does not match); {advice}")
    if state["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{path}: this checkpoint was made with other settings, data or model; "
            f"give another --out, or delete {folder} to start again"
        )
    return Checkpoint(state["step"], tensors, state["extra"])


def steps(folder: Path) -> list[int]:
    """The steps for which `folder` has a checkpoint, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name[5:]) for p in folder.glob("step-*") if p.name[5:].isdigit())


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that it is either the old one or the new one, whatever happens.

    Of several processes the first writes.
    """
    if not leads():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        _flush(temporary)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
