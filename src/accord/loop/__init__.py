"""The loop: collect -> fit -> improve -> check -> gate -> ask again."""

from __future__ import annotations

from pathlib import Path


def quickstart_file() -> Path:
    """The run file that `accord quickstart` drives."""
    return Path(__file__).parent / "quickstart.yaml"
