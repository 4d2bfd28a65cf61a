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
REMADE = "models/remade.py"
REMADE_TESTS = "tests/unit/models/test_remade.py"
MEMORY = "models/memory.py"
MEMORY_TESTS = "tests/unit/models/test_memory.py"
ADAPTERS = "models/adapters.py"
ADAPTER_TESTS = "tests/unit/models/test_adapters.py"
LLAMA = "rollout/llama.py"
LLAMA_TESTS = "tests/unit/rollout/test_siblings.py"

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
    Mutant(ATTENTION, "columns - rows + 1)", "1)", ATTENTION_TESTS, "mask: as if the context were not there"),
    Mutant(ATTENTION, "columns - rows + 1)", "columns - rows + 2)", ATTENTION_TESTS, "mask: sees ahead"),
    Mutant(
        ATTENTION, '{"attn_mask": mask(q, k)}', '{"is_causal": True}', ATTENTION_TESTS, "elsewhere: no mask"
    ),
    Mutant(ATTENTION, '{"attn_mask": mask(q_, k_)} if', "{} if", ATTENTION_TESTS, "answers see ahead"),
    Mutant(
        ATTENTION,
        '"attn_mask": mask(q_, k_) if context',
        '"attn_mask": None if context',
        ATTENTION_TESTS,
        "answers see ahead, backwards",
    ),
    Mutant(
        ATTENTION, "0.0, context is None,", "0.0, False,", ATTENTION_TESTS, "prompt sees ahead, backwards"
    ),
    Mutant(
        ATTENTION,
        "[x[:, :, context], x[:, :, own]]",
        "[x[:, :, own], x[:, :, context]]",
        ATTENTION_TESTS,
        "context behind",
    ),
    Mutant(
        ATTENTION,
        "_flash(q_, k_, v_, scale=scaling,",
        "_flash(q_, k_, v_,",
        ATTENTION_TESTS,
        "scale: the usual",
    ),
    Mutant(
        ATTENTION, '"scale": ctx.scaling', '"scale": None', ATTENTION_TESTS, "scale: the usual, backwards"
    ),
    Mutant(
        ATTENTION,
        "[:, :, context] += part",
        "[:, :, context] = part",
        ATTENTION_TESTS,
        "the last answer's pull",
    ),
    Mutant(
        ATTENTION, "torch.promote_types(q.dtype, torch.float32)", "q.dtype", ATTENTION_TESTS, "half precision"
    ),
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
    Mutant(PRODUCTS, "dy_FN.T @ ctx", "-dy_FN.T @ ctx", PRODUCT_TESTS, "dW: sign"),
    Mutant(PRODUCTS, "dy_FN.sum(0)", "dy_FN.mean(0)", PRODUCT_TESTS, "db: mean"),
    Mutant(PRODUCTS, "w_NK.detach(), bias_N,", "w_NK.detach(), None,", PRODUCT_TESTS, "no bias"),
    Mutant(PRODUCTS, ' or torch.is_autocast_enabled("cpu")', "", PRODUCT_TESTS, "autocast"),
    Mutant(PRODUCTS, "if type(module) is nn.Linear:", "if False:", PRODUCT_TESTS, "nothing is quickened"),
    # activations made again
    Mutant(REMADE, "mul_(scale**3)", "mul_(scale**2)", REMADE_TESTS, "norm: power of the slope"),
    Mutant(
        REMADE,
        "addcmul_(wide, along, value=-1)",
        "addcmul_(wide, along)",
        REMADE_TESTS,
        "norm: sign of the slope",
    ),
    Mutant(REMADE, "(dy * weight_D).to(scale", "dy.to(scale", REMADE_TESTS, "norm: slope without weight"),
    Mutant(REMADE, ".add_(eps)", "", REMADE_TESTS, "norm: no epsilon"),
    Mutant(REMADE, "dtype=wide)", "dtype=x.dtype)", REMADE_TESTS, "norm: sum in half precision"),
    Mutant(REMADE, "silu(gate).mul_(dy)", "gate.mul(dy)", REMADE_TESTS, "gate: slope of up"),
    Mutant(REMADE, "silu_backward(dy * up, gate)", "silu_backward(dy, gate)", REMADE_TESTS, "gate: slope"),
    Mutant(REMADE, 'return getattr(x, "_recipe", None) or', "return", REMADE_TESTS, "nothing is made again"),
    Mutant(REMADE, "(x * scale).to(x.dtype) * dy", "x * dy", REMADE_TESTS, "norm: slope of the weight"),
    Mutant(
        REMADE,
        "if not isinstance(self.act_fn,",
        "if isinstance(self.act_fn, int) and (",
        REMADE_TESTS,
        "gate: any function is SiLU",
    ),
    # memory
    Mutant(MEMORY, "set_option(ARENA_MAX, 1)", "pass", MEMORY_TESTS, "a heap for every thread"),
    Mutant(
        MEMORY,
        ' and "MALLOC_ARENA_MAX" not in os.environ',
        "",
        MEMORY_TESTS,
        "the user's setting is overruled",
    ),
    Mutant(MEMORY, "        trim(0)", "        pass", MEMORY_TESTS, "nothing is given back"),
    # merging
    Mutant(ADAPTERS, "(weight + layer", "(weight - layer", ADAPTER_TESTS, "merged: sign"),
    Mutant(ADAPTERS, "plain = copy.copy(plain)\n", "pass\n", ADAPTER_TESTS, "merged into the trunk"),
    Mutant(
        ADAPTERS,
        "{**{id(tensor): tensor for tensor in tensors}, **(instead or {})}",
        "{id(tensor): tensor for tensor in tensors}",
        ADAPTER_TESTS,
        "merged: nothing is added",
    ),
    Mutant(
        ADAPTERS,
        "{**{id(tensor): tensor for tensor in tensors}, **(instead or {})}",
        "{**(instead or {})}",
        ADAPTER_TESTS,
        "merged: nothing is shared",
    ),
    Mutant(
        LLAMA,
        "while trunk.layers:",
        "kept = list(trunk.layers)\n        while trunk.layers:",
        LLAMA_TESTS,
        "plain weights wait for all packed ones",
    ),
    Mutant(
        "rollout/local.py",
        "partial(sharing, model)",
        "lambda: model",
        LLAMA_TESTS,
        "the caller's model is taken apart",
    ),
]
