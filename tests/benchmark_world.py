"""What tests of the benchmarks share: their modules, a tiny model prepared for them, and its rows."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from accord.data.render import Renderer
from accord.records import Preference, Prompt
from tiny import tiny_llama, tiny_tokenizer

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # whoever imports this module may import `speed`

ROW = {
    "what": "8 pairs",
    "speed_ratio": 6.5,
    "memory_ratio": 0.25,
    "ours_seconds": 2.0,
    "peer_seconds": 13.0,
    "ours_range": [1.9, 2.2],
    "peer_range": [12.0, 14.0],
    "ours_gb": 2.0,
    "peer_gb": 8.0,
    "fraction_of_limit": 0.62,
    "peer_fraction_of_limit": 0.1,
}


def load_driver() -> Any:
    """benchmarks/run.py as a module."""
    spec = importlib.util.spec_from_file_location("benchmark_driver", BENCHMARKS / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def make_model(folder: Path) -> str:
    """A tiny model with two special tokens to spare, and the folder made of it for the benchmarks."""
    from speed import rows

    tokenizer = tiny_tokenizer()
    extra = ["<|im_start|>", "<|im_end|>", "<one>", "<two>"]
    tokenizer.add_special_tokens({"extra_special_tokens": extra})
    tiny_llama(vocab=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(rows.write_model(str(folder), folder / "prepared", "float32"))


def make_data(model: str, folder: Path) -> str:
    """Four comparisons."""
    from speed import rows

    made = [Preference(Prompt.of(f"Say {i}."), "yes " * (i + 1), "no") for i in range(4)]
    return str(rows.write(folder, made, renderer_of(model)))


def renderer_of(model: str) -> Renderer:
    from transformers import AutoTokenizer

    return Renderer(AutoTokenizer.from_pretrained(model))
