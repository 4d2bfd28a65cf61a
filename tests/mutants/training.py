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
BATCHES = "data/batches.py"
PLAN_TESTS = "tests/unit/data/test_batches.py"
FORWARD = "models/forward.py"
LAYER_TESTS = "tests/unit/models/test_forward.py -k some_layers"
DATABASE = "ledger/database.py"
RETRY_TESTS = "tests/unit/ledger/test_database.py -k locked"
HELP_TESTS = "tests/unit/test_config.py -k white_space"

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
    Mutant(
        "stages/offline.py",
        "for part in plan(encoded, tokens, shared=self.bench.shared):",
        "for part in __import__('accord').training.distributed.share(\n"
        "            plan(encoded, tokens, shared=self.bench.shared)):",
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
    Mutant(LORA, "linear(x_FK, w_NK, bias_N)", "linear(x_FK, w_NK)", LORA_TESTS, "lora: no bias"),
    Mutant(LORA, "(dy_FN @ b_Nr).mul_(ctx.scaling)", "dy_FN @ b_Nr", LORA_TESTS, "lora: dA unscaled"),
    Mutant(LORA, "(dy_FN.T @ low_Fr).mul_(ctx.scaling)", "dy_FN.T @ low_Fr", LORA_TESTS, "lora: dB unscaled"),
    Mutant(LORA, ".addmm_(down_Fr, a_rK)", "", LORA_TESTS, "lora: dx of the base alone"),
    Mutant(LORA, "len(names) != 1", "len(names) < 1", LORA_TESTS, "lora: first of several"),
    Mutant(LORA, "        name in layer.lora_A\n        and ", "        ", LORA_TESTS, "lora: on no layer"),
    Mutant(LORA, "        and name not in layer.lora_variant\n", "", LORA_TESTS, "lora: DoRA"),
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
    Mutant(LORA, "        and type(base) is nn.Linear\n", "", LORA_TESTS, "lora: any base"),
    Mutant(LORA, "        and not base.weight.requires_grad\n", "", LORA_TESTS, "lora: base learns"),
    Mutant(
        LORA,
        "        and isinstance(layer.lora_dropout[name], nn.Identity)\n",
        "",
        LORA_TESTS,
        "lora: dropout",
    ),
    Mutant(LORA, "        and layer.lora_B[name].bias is None\n", "", LORA_TESTS, "lora: bias of B"),
    Mutant(LORA, " == layer.lora_A[name].weight.dtype", "", LORA_TESTS, "lora: precision of A"),
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
    # micro-batches
    Mutant(BATCHES, "min(budget, tokens // lanes)", "min(budget, tokens)", PLAN_TESTS, "plan: budget of one"),
    Mutant(BATCHES, "-(-len(batches) // lanes) * lanes)", "len(batches))", PLAN_TESTS, "plan: odd number"),
    Mutant(BATCHES, "return even", "return batches", PLAN_TESTS, "plan: not even"),
    Mutant(BATCHES, "(-whole[g], g)", "(whole[g], g)", PLAN_TESTS, "plan: shortest first"),
    Mutant(BATCHES, "shared) <= tokens:", "shared) <= tokens + 1:", PLAN_TESTS, "plan: one token more"),
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
]
