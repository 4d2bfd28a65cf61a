"""Mutants of the statistics of feedback quality."""

from __future__ import annotations

from mutants import Mutant

KAPPA = "tests/unit/feedback/test_kappa.py"
RATERS = "tests/unit/feedback/test_raters.py"
DRIFT = "tests/unit/feedback/test_drift.py"
MODEL = "tests/unit/feedback/test_reliability.py"
VOTES = "tests/unit/feedback/test_votes.py"
RANKINGS = "tests/unit/feedback/test_rankings.py"
KNOWN = "tests/unit/ledger/test_known.py"
DISPUTED = "tests/unit/ledger/test_disputed_rankings.py"

MUTANTS = [
    Mutant("ledger/known.py", "return right > 0 or", "return right >= 0 or", KNOWN, "gold: half is right"),
    Mutant("ledger/known.py", "min(known, key=apart)", "max(known, key=apart)", KNOWN, "gold: nearest two"),
    Mutant("ledger/queue.py", "!= wanted.unlike", "== wanted.unlike", KNOWN, "repeats: the same order"),
    Mutant("ledger/prepared.py", "_newer.c.n > gold_", "_newer.c.n < gold_", KNOWN, "gold: the first order"),
    Mutant("ledger/adjudication.py", "(alike, 1), else_=-1", "(alike, 1), else_=1", DISPUTED, "tau: sign"),
    Mutant("ledger/adjudication.py", "_TAUS.c.tau < bound", "_TAUS.c.tau > bound", DISPUTED, "disputed"),
    Mutant(
        "ledger/adjudication.py",
        "(n1 + n2 == 0, 1.0), else_=0.0",
        "(n1 + n2 == 0, 0.0), else_=1.0",
        DISPUTED,
        "tau: what ties everything",
    ),
    Mutant("feedback/rankings.py", "(1 + tau) / 2", "(1 - tau) / 2", RANKINGS, "tau: bounds turned round"),
    Mutant("feedback/kappa.py", "(m * (m - 1))", "(m * m)", KAPPA, "fleiss: with itself"),
    Mutant("feedback/kappa.py", '"quadratic": step_KK**2', '"quadratic": step_KK', KAPPA, "weights"),
    Mutant(
        "feedback/kappa.py",
        "table_BKK.sum(2), table_BKK.sum(1)",
        "table_BKK.sum(2), table_BKK.sum(2)",
        KAPPA,
        "cohen: one margin",
    ),
    Mutant(
        "feedback/votes.py",
        "(judged.shown[0] == 0) == straight",
        "judged.shown[0] == 0",
        VOTES,
        "side of a swapped pair",
    ),
    Mutant(
        "feedback/votes.py",
        "judged.strength if straight else -",
        "judged.strength if straight else ",
        VOTES,
        "slot sign",
    ),
    Mutant(
        "feedback/sprt.py", "(1 - GOOD) / (1 - GUESSING)", "(1 - GOOD) / GOOD", RATERS, "gold: wrong answers"
    ),
    Mutant(
        "feedback/sprt.py",
        ">= LIMIT:",
        ">= LIMIT and i == len(correct):",
        RATERS,
        "gold: goes on after the verdict",
    ),
    Mutant(
        "feedback/copying.py", "0.5 + (one * other + 1.64 * se) / 2", "0.5", RATERS, "copying: good raters"
    ),
    Mutant(
        "ledger/known.py",
        "sum(ranks[high] < ranks[low] for",
        "sum(ranks[high] > ranks[low] for",
        RATERS,
        "gold: slots",
    ),
    Mutant(
        "feedback/raters.py",
        "own[p] - np.mean(longer[p])",
        "own[p] + np.mean(longer[p])",
        RATERS,
        "length: sign",
    ),
    Mutant(
        "feedback/drift.py",
        "(1 + reached) / (1 + n_permutations)",
        "reached / n_permutations / 3",
        DRIFT,
        "p-value",
    ),
    Mutant(
        "feedback/drift.py",
        "    if 0 < hidden < FEWEST_PEOPLE and shown:\n        shown = shown[1:]\n",
        "",
        DRIFT,
        "told by subtraction",
    ),
    Mutant(
        "feedback/graded.py",
        "by_eta_NQ = slope_low_NQ - slope_high_NQ",
        "by_eta_NQ = slope_high_NQ - slope_low_NQ",
        MODEL,
        "gradient: sign",
    ),
    Mutant(
        "feedback/graded.py",
        "(1 - lapse_N1) * prob_NQ + lapse_N1 / table.n_levels",
        "(1 - lapse_N1) * prob_NQ + lapse_N1",
        MODEL,
        "lapse is uniform",
    ),
    Mutant(
        "feedback/graded.py",
        "(p.covariate * x_N)[:, None] + z_Q",
        "(p.covariate * x_N)[:, None] - z_Q",
        MODEL,
        "grid reversed",
    ),
    Mutant(
        "feedback/reliability.py",
        "1.0 if v.first_is_left else -1.0",
        "-1.0 if v.first_is_left else 1.0",
        MODEL,
        "sides reversed",
    ),
    Mutant("feedback/reliability.py", " / times[v.rater, v.pair]", "", MODEL, "repeats count twice"),
]
