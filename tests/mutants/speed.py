"""Mutants of what makes training fast: one row without padding, its attention, its readout, its products."""

from __future__ import annotations

from mutants import Mutant

BATCHES = "data/batches.py"
BATCH_TESTS = "tests/unit/data/test_batches.py"
ATTENTION = "models/attention.py"
ATTENTION_TESTS = "tests/unit/models/test_attention.py"
READOUT = "models/readout.py"
READOUT_TESTS = "tests/unit/models/test_readout.py"
PRODUCTS = "models/products.py"
PRODUCT_TESTS = "tests/unit/models/test_products.py"
FORWARD = "models/forward.py"
GROUPS = "tests/invariance/test_groups.py"
LORA = "models/lora.py"
LORA_TESTS = "tests/unit/models/test_lora.py"

MUTANTS = [
    # micro-batches
    Mutant(BATCHES, "range(prompt, prompt + length)", "range(length)", BATCH_TESTS, "row: positions from 0"),
    Mutant(BATCHES, "Segment(length, after=number)", "Segment(length)", BATCH_TESTS, "row: no prompt seen"),
    Mutant(BATCHES, "after=number)", "after=0)", BATCH_TESTS, "row: the first prompt is seen by all"),
    Mutant(
        BATCHES,
        "[last_of_prompt, *range(first,",
        "[first - 1, *range(first,",
        BATCH_TESTS,
        "row: sibling predicts",
    ),
    Mutant(BATCHES, "tokens // lanes", "tokens", BATCH_TESTS, "plan: budget of one"),
    Mutant(BATCHES, "-(-count // lanes) * lanes", "count", BATCH_TESTS, "plan: odd number"),
    Mutant(BATCHES, "loads.index(min(loads))", "0", BATCH_TESTS, "plan: all in one"),
    Mutant(BATCHES, "(-sizes[g], g)", "(sizes[g], g)", BATCH_TESTS, "plan: shortest first"),
    Mutant(BATCHES, "load <= budget or", "load <= budget + 1 or", BATCH_TESTS, "plan: one token more"),
    Mutant(
        BATCHES,
        "[batches[-1][0]] <= tokens:",
        "[batches[-1][0]] <= tokens + 1:",
        BATCH_TESTS,
        "rows: one more",
    ),
    Mutant(BATCHES, "(-longest[g], g)", "(longest[g], g)", BATCH_TESTS, "rows: shortest first"),
    # attention
    Mutant(ATTENTION, ".tril(context)", ".tril()", ATTENTION_TESTS, "mask: as if the context were not there"),
    Mutant(ATTENTION, ".tril(context)", "", ATTENTION_TESTS, "mask: sees ahead"),
    Mutant(ATTENTION, "is_causal=mask is None", "is_causal=False", ATTENTION_TESTS, "prompt sees ahead"),
    Mutant(
        ATTENTION, "[x[segment.after], x[i]]", "[x[i], x[segment.after]]", ATTENTION_TESTS, "context behind"
    ),
    Mutant(ATTENTION, "scale=scaling,", "", ATTENTION_TESTS, "scale: the usual"),
    Mutant(ATTENTION, "wide = torch.float32", "pass", ATTENTION_TESTS, "half precision"),
    Mutant(
        ATTENTION,
        "    if row.layers != layers:",
        "    if False:",
        ATTENTION_TESTS,
        "nobody counts the layers",
    ),
    Mutant(ATTENTION, "    row.layers += 1\n", "", GROUPS, "layers are not counted"),
    Mutant(ATTENTION, "        _row.reset(token)", "        pass", ATTENTION_TESTS, "the row stays in force"),
    Mutant(ATTENTION, "if how.get(name) is not None]", "if False]", ATTENTION_TESTS, "softcap is overlooked"),
    Mutant(FORWARD, 'config._attn_implementation == "sdpa"\n', "True\n", GROUPS, "eager shares rows"),
    # readout
    Mutant(READOUT, "probs_nV.neg_()", "probs_nV", READOUT_TESTS, "pull: sign of p"),
    Mutant(
        READOUT, "torch.ones_like(totals_n1)", "-torch.ones_like(totals_n1)", READOUT_TESTS, "pull: sign of 1"
    ),
    Mutant(
        READOUT, "(mean_n1 - plain_nV)", "(plain_nV - mean_n1)", READOUT_TESTS, "entropy: sign of the slope"
    ),
    Mutant(READOUT, "totals_n1 - mean_n1", "mean_n1 - totals_n1", READOUT_TESTS, "entropy: sign"),
    Mutant(READOUT, "d_n[:, None].to(g.dtype) * g", "g", READOUT_TESTS, "backward: unscaled"),
    Mutant(READOUT, "sum(terms[1:], start=terms[0])", "terms[0]", READOUT_TESTS, "backward: no entropy"),
    Mutant(
        READOUT, "    if not frozen:", "    if False:", READOUT_TESTS, "a learning head is taken for frozen"
    ),
    Mutant(READOUT, "    if not frozen:", "    if True:", READOUT_TESTS, "logits are made twice"),
    Mutant(
        FORWARD,
        "scaled_nV / temperature",
        "scaled_nV * temperature",
        "tests/unit/models/test_forward.py",
        "temperature",
    ),
    # products
    Mutant(
        PRODUCTS,
        "product(dy_FN, w_NK.t()).view",
        "product(dy_FN, w_NK.t()).neg().view",
        PRODUCT_TESTS,
        "dx: sign",
    ),
    Mutant(PRODUCTS, "dy_FN.T @ x_FK", "-dy_FN.T @ x_FK", PRODUCT_TESTS, "dW: sign"),
    Mutant(PRODUCTS, "dy_FN.sum(0)", "dy_FN.mean(0)", PRODUCT_TESTS, "db: mean"),
    Mutant(PRODUCTS, "w_NK.detach(), bias_N,", "w_NK.detach(), None,", PRODUCT_TESTS, "no bias"),
    Mutant(PRODUCTS, ' or torch.is_autocast_enabled("cpu")', "", PRODUCT_TESTS, "autocast"),
    Mutant(PRODUCTS, "if type(module) is nn.Linear:", "if False:", PRODUCT_TESTS, "nothing is quickened"),
]
