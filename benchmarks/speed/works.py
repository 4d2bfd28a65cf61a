"""The works that are measured, and the models, rows and tasks that they are measured on."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speed.limits import Shape
from speed.task import Task

TRL, TRL_PPO = "trl-1.16.0", "trl-1.12.0"  # the newest, and the last that has PPO
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Work:
    """A row of the table: what a step is, and which line of peers.txt the peer is."""

    what: str
    peer: str = TRL
    prompts: int = 0
    answers: int = 1


WORKS: Mapping[str, Work] = {
    "sft": Work("{pairs} demonstrations"),
    "reward": Work("{pairs} pairs"),
    "dpo": Work("{pairs} pairs, reference included"),
    "dpo-cached": Work("{pairs} pairs, reference computed before"),
    "grpo": Work("2 prompts × 8 answers × {tokens} tokens", prompts=2, answers=8),
    "rloo": Work("2 prompts × 8 answers × {tokens} tokens", prompts=2, answers=8),
    "ppo": Work("4 prompts × 4 answers × {tokens} tokens, 4 epochs", peer=TRL_PPO, prompts=4, answers=4),
    "sampling": Work("8 prompts × 4 answers × {tokens} tokens", prompts=8, answers=4),
}


@dataclass(frozen=True)
class Bench:
    """Where things lie, and how they are run."""

    arguments: argparse.Namespace
    folder: Path

    @property
    def dtype(self) -> str:
        return str(self.arguments.dtype)

    def what(self, name: str) -> str:
        """A step of a work, in words."""
        return WORKS[name].what.format(pairs=self.arguments.pairs, tokens=self.arguments.new_tokens)

    def conditions(self, name: str) -> dict[str, str]:
        """What a result holds for, in words."""
        dtype, weights = self.dtype, self.arguments.peer_weights
        plain = dtype == weights or name == "sampling"  # generate() trains nothing that wants more
        return {
            "model": self.arguments.model,
            "dtype": dtype,
            "peer_dtype": dtype if plain else f"{dtype} autocast over {weights} weights",
            "trains": "all weights" if self.arguments.full else "LoRA of rank 16 on all linear layers",
        }

    def model(self, name: str) -> str:
        from speed.rows import write_model

        short = Path(name).name
        return str(write_model(name, self.folder / f"model-{short}-{self.dtype}", self.dtype))

    def rows(self, name: str, model: str, pairs: int, **made: Any) -> str:
        """A data folder: of the real comparisons, or of words where `made` says how many."""
        from transformers import AutoTokenizer

        from accord.data.render import Renderer
        from speed import rows

        renderer = Renderer(AutoTokenizer.from_pretrained(model))
        source = Path(self.arguments.preferences)
        real = not made and source.exists()
        found = rows.hh_rows(source, renderer, pairs) if real else rows.made_rows(renderer, pairs, **made)
        return str(rows.write(self.folder / name, found, renderer))

    def task(self, name: str, model: str, data: str, steps: int) -> Task:
        work = WORKS[name]
        return Task(
            name,
            model,
            data,
            steps,
            work.prompts,
            work.answers,
            self.arguments.new_tokens,
            not self.arguments.full,
            self.dtype,
            self.arguments.peer_checkpointing,
            self.arguments.peer_weights,
        )


def shape_of(model: str, dtype: str) -> Shape:
    from transformers import AutoConfig

    c = AutoConfig.from_pretrained(model)
    size = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    keys = c.num_key_value_heads * size
    queries = c.num_attention_heads * size
    layers, vocabulary = c.num_hidden_layers, c.vocab_size
    return Shape(layers, c.hidden_size, queries, keys, c.intermediate_size, vocabulary, BYTES[dtype])
