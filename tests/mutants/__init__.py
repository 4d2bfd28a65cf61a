"""The tables of mutants: each module here has a list MUTANTS, which `tests/mutate.py` finds by itself."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One piece of text replaced by another, and the tests that must then fail."""

    file: str  # below src/accord/objectives, or below src/accord when it names a folder
    old: str  # must occur exactly once in the file
    new: str
    tests: str
    note: str

    @property
    def path(self) -> str:
        """Below src/accord."""
        return self.file if "/" in self.file else f"objectives/{self.file}"


def all_mutants() -> list[Mutant]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [m for name in names for m in importlib.import_module(f"{__name__}.{name}").MUTANTS]
