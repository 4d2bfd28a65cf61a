"""Mutants of what evidence rests on: drawing tokens, intervals, the audit trail and what verifies it."""

from __future__ import annotations

from mutants import Mutant

DRAW = "rollout/draw.py"
DRAW_TESTS = "tests/unit/rollout/test_draw.py"
INTERVALS = "evaluation/intervals.py"
INTERVAL_TESTS = "tests/unit/evaluation/test_intervals.py"
AUDIT = "ledger/audit.py"
VERIFY = "ledger/verify.py"
LEDGER_TESTS = "tests/unit/ledger/test_integrity.py"

MUTANTS = [
    Mutant(DRAW, "logits_RV / temperature if", "logits_RV * temperature if", DRAW_TESTS, "temperature"),
    Mutant(
        DRAW,
        "drawn_R.log() - totals_R1[:, 0].log()",
        "drawn_R.log() - sums_RB.sum(-1).log()",
        DRAW_TESTS,
        "nucleus: its log-probs",
    ),
    Mutant(DRAW, "sums_RB = _block_sums(kept_RV)", "pass", DRAW_TESTS, "nucleus: sums of all"),
    Mutant(DRAW, ">= _nucleus_floor", "> _nucleus_floor", DRAW_TESTS, "nucleus: its last is left out"),
    Mutant(DRAW, "targets_R1 - before_R1", "targets_R1", DRAW_TESTS, "blocks: those before"),
    Mutant(DRAW, "argmax(-1), -totals_R1", "argmax(-1), totals_R1", DRAW_TESTS, "greedy: sign"),
    Mutant(DRAW, "{seed}/{prompt_id}/{index}", "{seed}/{prompt_id}", DRAW_TESTS, "siblings share a stream"),
    Mutant(INTERVALS, " + z**2 / (4 * n**2)", "", INTERVAL_TESTS, "wilson: width"),
    Mutant(INTERVALS, "(p + z**2 / (2 * n)) / shrink", "p / shrink", INTERVAL_TESTS, "wilson: centre"),
    Mutant(
        INTERVALS, "(1 + _checked_level(level)) / 2)", "_checked_level(level))", INTERVAL_TESTS, "one-sided"
    ),
    Mutant(
        INTERVALS,
        "_expanded_tails(level, n_clusters))",
        "[(1 - level) / 2, (1 + level) / 2])",
        INTERVAL_TESTS,
        "bootstrap: tails of few clusters",
    ),
    Mutant(
        INTERVALS,
        "drawn[:, code_N].astype(float)",
        "rng.multinomial(len(code_N), np.full(len(code_N), 1 / len(code_N)), size=size).astype(float)",
        INTERVAL_TESTS,
        "bootstrap: rows one by one",
    ),
    Mutant(AUDIT, '"prev_hash": prev_hash,', '"prev_hash": "",', LEDGER_TESTS, "entries are not chained"),
    Mutant(AUDIT, "content_hash(entry.detail)", 'content_hash("")', LEDGER_TESTS, "contents are not hashed"),
    *(
        Mutant(VERIFY, f"        {check},\n", "", LEDGER_TESTS, f"verify: no {check}")
        for check in ("_integrity", "_foreign_keys", "_texts", "_chain", "_objects", "_assignments", "_items")
    ),
    *(
        Mutant(VERIFY, f"        {check},\n", "", LEDGER_TESTS, f"verify: no {check}")
        for check in ("_statuses", "_preferences", "_releases")
    ),
]
