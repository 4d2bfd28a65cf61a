"""Mutants of the engine, the sums over processes, and packing."""

from __future__ import annotations

from mutants import Mutant

PROCESSES = "tests/invariance/test_processes.py"
PACKING = "tests/unit/data/test_packing.py"
GRADIENTS = "training/distributed.py"
ROWS = "data/packing.py"

MUTANTS = [
    Mutant(
        GRADIENTS,
        "            work.wait()\n",
        "            work.wait()\n        [p.grad.div_(2) for p in ordered if p.grad is not None]\n",
        PROCESSES,
        "processes: mean of gradients, not sum",
    ),
    Mutant(GRADIENTS, "return items[rank::size]", "return items", PROCESSES, "processes: all do everything"),
    Mutant(GRADIENTS, "if not _first_to_fail(store):", "if False:", PROCESSES, "processes: all speak"),
    Mutant(ROWS, "whole[first : first + length + 1]", "whole[first : first + length]", PACKING, "cut"),
    Mutant(ROWS, "range(len(p.inputs))]", "range(1, len(p.inputs) + 1)]", PACKING, "positions from 1"),
    Mutant(
        ROWS, "[j for j, p in enumerate(row, start=1)", "[1 for j, p in enumerate(row)", PACKING, "no mask"
    ),
    Mutant(ROWS, "free > len(piece.inputs)", "free < 0", PACKING, "rows of one document"),
    Mutant(ROWS, "first = length * torch", "first = 0 * torch", PACKING, "rows mixed up"),
]
