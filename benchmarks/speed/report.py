"""What was measured, as JSON that grows from run to run, as a page to read, and as pictures."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from speed.draw import draw
from speed.page import page

FILE = "performance.json"


def known(folder: Path, part: str, variant: str) -> dict[str, Any]:
    """What is kept of a part, if it was measured on this machine, with these versions."""
    results = _read(folder)
    if results.get("machine") != this_machine():
        return {}
    found: dict[str, Any] = _of(results, variant).get(part, {})
    return found


def keep(folder: Path, part: str, found: Mapping[str, Any], variant: str = "") -> None:
    """Put a part's results over what is kept of it; they say when and under which load they were measured."""
    results = _read(folder)
    stamp = {"when": time.strftime("%Y-%m-%d %H:%M"), "load_average": round(os.getloadavg()[0], 2)}
    _of(results, variant)[part] = {**found, **stamp}
    write({**results, "machine": this_machine()}, folder)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return results


def _of(results: dict[str, Any], variant: str) -> dict[str, Any]:
    """The results of a variant, which live among the others'."""
    found: dict[str, Any] = results.setdefault("variants", {}).setdefault(variant, {}) if variant else results
    return found


def write(results: Mapping[str, Any], folder: Path) -> None:
    """performance.json, performance.md and the pictures in it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")
    (folder / "performance.md").write_text(page(results), encoding="utf-8")
    draw(results, folder)


def this_machine() -> dict[str, Any]:
    names = ("torch", "transformers", "peft")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in names},
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = " ".join(line for line in lines[:40] if line.startswith("flags")).split()
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{names[0] if names else platform.processor()} ({', '.join(known)})"
