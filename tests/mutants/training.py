"""Mutants of the engine, its lanes and processes, LoRA, packing and batches, and what opens a ledger."""

from __future__ import annotations

from mutants import Mutant

PROCESSES = "tests/invariance/test_processes.py"
PACKING = "tests/unit/data/test_packing.py"
GRADIENTS = "training/distributed.py"
ROWS = "data/packing.py"
LANES = "training/lanes.py"
ENGINE = "training/engine.py"
LANE_TESTS = "tests/unit/training/test_lanes.py"
LORA = "models/lora.py"
LORA_TESTS = "tests/unit/models/test_lora.py"
ADAPTERS = "models/adapters.py"
GATE_TESTS = "tests/unit/models/test_adapters.py -k thread"
FORWARD = "models/forward.py"
LAYER_TESTS = "tests/unit/models/test_forward.py -k some_layers"
DATABASE = "ledger/database.py"
RETRY_TESTS = "tests/unit/ledger/test_database.py -k locked"
HELP_TESTS = "tests/unit/test_config.py -k white_space"
SHARDED = "models/sharded.py"
SPLIT_TESTS = "tests/invariance/test_processes.py -k split"

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
        ROWS,
        "tuple(Segment(len(p.inputs)) for row in rows for p in row)",
        "tuple(Segment(sum(len(p.inputs) for p in row)) for row in rows)",
        PACKING,
        "no mask",
    ),
    Mutant(ROWS, "free > len(piece.inputs)", "free < 0", PACKING, "rows of one document"),
    Mutant(ROWS, "first = sizes.cumsum(0) - sizes", "first = 0 * sizes", PACKING, "rows mixed up"),
    Mutant(
        "stages/offline.py",
        "for part, batch in in_batches(encoded, tokens, shared=self.bench.shared):",
        "for part, batch in __import__('accord').training.distributed.share(\n"
        "            list(in_batches(encoded, tokens, shared=self.bench.shared))):",
        PROCESSES,
        "processes: KTO's baseline of a share",
    ),
    # lanes
    Mutant(LANES, "min(MOST, torch.get_num_threads())", "torch.get_num_threads()", LANE_TESTS, "lanes: any"),
    Mutant(
        LANES, "torch.get_num_threads() // count", "torch.get_num_threads()", LANE_TESTS, "lanes: all cores"
    ),
    Mutant(LANES, "torch.set_grad_enabled(grad)", "torch.set_grad_enabled(True)", LANE_TESTS, "lanes: mode"),
    Mutant(LANES, "in range(count)]", "in range(count - 1)]", LANE_TESTS, "lanes: the last is lost"),
    Mutant(
        LANES,
        "parts[place % len(parts)][place // len(parts)]",
        "[r for part in parts for r in part][place]",
        LANE_TESTS,
        "lanes: order",
    ),
    Mutant(ENGINE, "gradient.stride() != parameter.stride() or ", "", LANE_TESTS, "owned: any layout"),
    Mutant(ENGINE, " or gradient.data_ptr() in seen", "", LANE_TESTS, "owned: memory of another's"),
    Mutant(ENGINE, "seen.add(gradient.data_ptr())", "pass", LANE_TESTS, "owned: none remembered"),
    Mutant(ENGINE, "else known.add_(gradient)", "else gradient", LANE_TESTS, "a lane's last batch alone"),
    Mutant(
        ENGINE, "else parameter.grad.add_(gradient)", "else gradient", LANE_TESTS, "the last lane's gradient"
    ),
    Mutant(ENGINE, "_add(sums[name], *pair)", "sums[name] = pair", LANE_TESTS, "the last lane's metrics"),
    # LoRA in one step
    Mutant(LORA, "alpha=scaling)", "alpha=1.0)", LORA_TESTS, "lora: no scaling"),
    Mutant(LORA, "alpha=scaling)", "alpha=-scaling)", LORA_TESTS, "lora: sign"),
    Mutant(LORA, "product(x_FK, w_NK, bias_N)", "product(x_FK, w_NK)", LORA_TESTS, "lora: no bias"),
    Mutant(
        LORA,
        "product(dy_FN, b_Nr.t()).mul_(ctx.scaling)",
        "product(dy_FN, b_Nr.t())",
        LORA_TESTS,
        "lora: dA unscaled",
    ),
    Mutant(LORA, "(low_Fr.T @ dy_FN).mul_(ctx.scaling)", "low_Fr.T @ dy_FN", LORA_TESTS, "lora: dB unscaled"),
    Mutant(LORA, "a_rK.t(), 1.0)", "a_rK.t(), 0.0)", LORA_TESTS, "lora: dx of the base alone"),
    Mutant(LORA, "len(names) != 1", "len(names) < 1", LORA_TESTS, "lora: first of several"),
    Mutant(
        LORA, "    if name not in layer.lora_A:\n        return False\n", "", LORA_TESTS, "lora: on no layer"
    ),
    Mutant(LORA, "        name not in layer.lora_variant\n", "        True\n", LORA_TESTS, "lora: DoRA"),
    Mutant(
        LORA, "layer.disable_adapters or layer.merged", "layer.merged", LORA_TESTS, "lora: though disabled"
    ),
    Mutant(
        LORA,
        "layer.disable_adapters or layer.merged",
        "layer.disable_adapters",
        LORA_TESTS,
        "lora: though merged",
    ),
    Mutant(LORA, "        and is_plain(base)\n", "", LORA_TESTS, "lora: any base"),
    Mutant(LORA, "        and not base.weight.requires_grad\n", "", LORA_TESTS, "lora: base learns"),
    Mutant(
        LORA,
        "        and isinstance(layer.lora_dropout[name], nn.Identity)\n",
        "",
        LORA_TESTS,
        "lora: dropout",
    ),
    Mutant(LORA, "        and layer.lora_B[name].bias is None\n", "", LORA_TESTS, "lora: bias of B"),
    Mutant(
        LORA,
        "        and torch.promote_types(x.dtype, kind) == kind\n",
        "",
        LORA_TESTS,
        "lora: lower precision of A",
    ),
    Mutant(LORA, "not torch.is_autocast_enabled(x.device.type)", "True", LORA_TESTS, "lora: autocast"),
    # adapters and threads
    Mutant(ADAPTERS, "not self._inside or self._name == name)", "True)", GATE_TESTS, "gate: nobody waits"),
    Mutant(
        ADAPTERS,
        "                if not self._inside:\n                    self._switched.close()",
        "                self._switched.close()",
        GATE_TESTS,
        "gate: the first to leave switches back",
    ),
    Mutant(
        ADAPTERS,
        "            if not self._inside:\n                self._switched.enter",
        "            if self._name is None:\n                self._switched.enter",
        GATE_TESTS,
        "gate: switched but once",
    ),
    Mutant(ADAPTERS, "self._inside.append(me)", "self._inside[:] = [me]", GATE_TESTS, "gate: one is counted"),
    # the first layers of a model
    Mutant(FORWARD, "[:layers]}", "[: layers + 1]}", LAYER_TESTS, "layers: one more"),
    Mutant(FORWARD, "[:layers]}", "[-layers:]}", LAYER_TESTS, "layers: the last ones"),
    Mutant(FORWARD, "shell = copy.copy(backbone)", "shell = backbone", LAYER_TESTS, "layers: lost for good"),
    Mutant(FORWARD, "not 0 < layers <= total", "not layers <= total", LAYER_TESTS, "layers: none"),
    # opening a ledger, describing a setting
    Mutant(DATABASE, "time.monotonic() > deadline:", "True:", RETRY_TESTS, "locked: not tried again"),
    Mutant(DATABASE, '"locked" not in str(error) or ', "", RETRY_TESTS, "locked: any error"),
    Mutant(
        "config/reading.py",
        "repr(value) if isinstance(value, str) and not value.strip() else str(value)",
        "str(value)",
        HELP_TESTS,
        "help: white space as it is",
    ),
    Mutant("config/reading.py", "and not value.strip() else", "else", HELP_TESTS, "help: all text in quotes"),
    # layers split over processes
    Mutant(SHARDED, "in layers_of(model):", "in layers_of(model)[:0]:", SPLIT_TESTS, "split: nothing is"),
    Mutant(SHARDED, "tensor.full_tensor()", "tensor.to_local()", SPLIT_TESTS, "split: a part for the whole"),
    Mutant(
        "training/engine.py",
        "for batch in spare(batches):",
        "for batch in share(batches)[:1] * bool(spare(batches)):",
        SPLIT_TESTS,
        "split: an idle process computes nothing",
    ),
    Mutant(
        "training/distributed.py",
        'or "by peer" in str(error)',
        "or False",
        SPLIT_TESTS,
        "split: a killed process is a stack of frames",
    ),
    Mutant(
        "models/adapters.py",
        "_sum(layers[prefix], name, whole(tensor))",
        "whole(tensor)",
        "tests/unit/models/test_adapters.py",
        "saved without the adapter",
    ),
]
