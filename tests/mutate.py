"""Does every test of the objectives have teeth? Break one thing at a time and see its tests go red.

    python tests/mutate.py            all mutants
    python tests/mutate.py gae kl.py  those whose file or note contains one of the words

The tables are in tests/mutants/. Each mutant is a copy of src in a temporary folder with one piece of text
replaced; the tree itself is never touched. A mutant that its tests let through is printed as SURVIVED, and
the exit status is 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mutants import Mutant, all_mutants

ROOT = Path(__file__).resolve().parent.parent


def survives(mutant: Mutant) -> bool:
    """Whether the mutant's tests pass on a copy of src that carries it."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(
            ROOT / "src" / "accord", source / "accord", ignore=shutil.ignore_patterns("__pycache__")
        )
        path = source / "accord" / mutant.path
        text = path.read_text()
        if text.count(mutant.old) != 1:
            sys.exit(f"{mutant.file}: mend the table, {mutant.old!r} is there {text.count(mutant.old)} times")
        path.write_text(text.replace(mutant.old, mutant.new))
        environment = {
            **os.environ,
            "PYTHONPATH": str(source),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(Path(folder) / "hypothesis"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *mutant.tests.split()]
        result = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if result.returncode not in (0, 1):  # 1: tests failed; anything else: they never ran
            sys.exit(f"{mutant.note}: pytest ended with {result.returncode}\n{result.stdout[-2000:]}")
        return result.returncode == 0


def main(words: list[str]) -> int:
    chosen = [m for m in all_mutants() if not words or any(w in f"{m.file} {m.note}" for w in words)]
    survivors = 0
    for mutant in chosen:
        alive = survives(mutant)
        survivors += alive
        print(f"{'SURVIVED' if alive else 'killed  '}  {mutant.file:18} {mutant.note}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants killed")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
