"""The shortest time in which the machine could do a work: its arithmetic at the peak of matrix products.

Counted is what the work needs and not what anybody spends: each prompt once, logits only where an answer is
scored, no weight gradients of frozen weights, no padding, nothing computed twice. Decoding is bound by the
larger of arithmetic and of reading the weights and the cache once for each token that all rows get.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from accord.models.device import on_device
from speed.task import LORA_RANK, Task


@dataclass(frozen=True)
class Machine:
    """Measured ceilings: the best of some ways to multiply matrices, and reading memory."""

    gflops: float
    gbytes: float
    products: Mapping[str, float] = field(default_factory=dict)  # GFLOP/s of each way


@dataclass(frozen=True)
class Shape:
    """A decoder as far as its cost depends on it."""

    layers: int
    hidden: int
    queries: int  # heads times their size
    keys: int  # key-value heads times their size
    feed_forward: int
    vocabulary: int
    bytes_each: int = 4  # of a weight

    @property
    def linear(self) -> int:
        """Weights of the layers' matrices."""
        attention = 2 * self.hidden * (self.queries + self.keys)
        return self.layers * (attention + 3 * self.hidden * self.feed_forward)

    @property
    def lora(self) -> int:
        """Weights of adapters on all of them."""
        sides = 2 * (self.hidden + self.queries) + 2 * (self.hidden + self.keys)
        return self.layers * LORA_RANK * (sides + 3 * (self.hidden + self.feed_forward))


@dataclass(frozen=True)
class Tokens:
    """What a pass runs over: positions, (query, key) pairs in attention, positions that need logits."""

    positions: int
    attended: int
    scored: int


def tokens_of(groups: Sequence[tuple[int, Sequence[int]]]) -> Tokens:
    """Of groups (prompt's length, its answers' lengths): each prompt once, seen by its own answers only."""
    positions = sum(p + sum(answers) for p, answers in groups)
    attended = sum(_triangle(p) + sum(p * a + _triangle(a) for a in answers) for p, answers in groups)
    return Tokens(positions, attended, sum(sum(answers) for _, answers in groups))


def _triangle(n: int) -> int:
    return n * (n + 1) // 2


def forward(shape: Shape, tokens: Tokens, *, logits: bool = True, lora: bool = False) -> float:
    """Floating-point operations, a multiplication and an addition being two."""
    weights = shape.linear + shape.lora * lora
    head = shape.hidden * shape.vocabulary * tokens.scored * logits
    return 2 * (weights * tokens.positions + head) + 4 * shape.layers * shape.queries * tokens.attended


def backward(shape: Shape, tokens: Tokens, *, logits: bool = True, lora: bool = False) -> float:
    """As much again for the gradients of activations; with LoRA only the adapters' weights want theirs."""
    trained = shape.lora if lora else shape.linear
    head = 0 if lora else shape.hidden * shape.vocabulary * tokens.scored * logits
    return forward(shape, tokens, logits=logits, lora=lora) + (
        # softmax(QK)V has two products, and each has two gradients: twice its forward pass
        2 * (trained * tokens.positions + head) + 4 * shape.layers * shape.queries * tokens.attended
    )


def decoding_seconds(shape: Shape, prompts: Sequence[int], answers: int, new: int, machine: Machine) -> float:
    """To read the prompts, and then to add `new` tokens to `answers` answers of each."""
    prefill = forward(shape, Tokens(sum(prompts), sum(map(_triangle, prompts)), 0))
    rows, matrices = len(prompts) * answers, shape.linear + shape.hidden * shape.vocabulary
    seconds = prefill / machine.gflops / 1e9
    for t in range(new):
        context = answers * sum(p + t for p in prompts)
        # A prompt's keys and values may be read once for all of its answers.
        cached = 2 * shape.layers * shape.keys * (sum(prompts) + rows * t)
        flops = 2 * matrices * rows + 4 * shape.layers * shape.queries * context
        moved = shape.bytes_each * (matrices + cached)
        seconds += max(flops / machine.gflops, moved / machine.gbytes) / 1e9
    return seconds


def limit_seconds(task: Task, shape: Shape, lengths: Sequence[Mapping[str, int]], machine: Machine) -> float:
    """The shortest time of one step of `task` over rows of these lengths."""
    pairs = tokens_of([(row["prompt"], (row["chosen"], row["rejected"])) for row in lengths])
    chosen = tokens_of([(row["prompt"], (row["chosen"],)) for row in lengths])
    prompts = [row["prompt"] for row in lengths]
    sampled = tokens_of([(p, (task.new_tokens,) * task.answers) for p in prompts])

    def train(tokens: Tokens, logits: bool = True) -> float:
        run = {"logits": logits, "lora": task.lora}
        return forward(shape, tokens, **run) + backward(shape, tokens, **run)

    # the reference; PPO's reward model too, and four epochs
    passes: Mapping[str, Callable[[], float]] = {
        "sft": lambda: train(chosen),
        "reward": lambda: train(pairs, logits=False),
        "dpo": lambda: forward(shape, pairs) + train(pairs),
        "dpo-cached": lambda: train(pairs),
        "grpo": lambda: forward(shape, sampled) + train(sampled),
        "rloo": lambda: forward(shape, sampled) + train(sampled),
        "ppo": lambda: forward(shape, sampled) + forward(shape, sampled, logits=False) + 4 * train(sampled),
        "sampling": lambda: 0.0,
    }
    seconds = passes[task.work]() / machine.gflops / 1e9
    if task.sampled:
        seconds += decoding_seconds(shape, prompts, task.answers, task.new_tokens, machine)
    return seconds


def measure_machine(dtype: str = "float32", size: int = 3072, repeats: int = 5) -> Machine:
    """The best of some products of square matrices in `dtype`, and of passes over more than a cache holds."""
    with on_device("auto"):
        a, b = torch.randn(2, size, size).to(getattr(torch, dtype)).unbind()
        wide, vector = torch.randn(8 * size, 2 * size), torch.randn(2 * size)
        ways = _products(a, b)
        products = {name: 2 * size**3 / _best(way, repeats) / 1e9 for name, way in ways.items()}
        reading = min(_best(lambda: wide @ vector, repeats), _best(wide.sum, repeats))
    return Machine(max(products.values()), wide.numel() * 4 / reading / 1e9, products)


def _products(a: Tensor, b: Tensor) -> dict[str, Callable[[], Tensor]]:
    """torch's own (on CPUs MKL's in float32), and oneDNN's on plain weights and on those that it laid out."""
    ways: dict[str, Callable[[], Tensor]] = {"torch": lambda: a @ b}
    ops = torch.ops.mkldnn
    if a.is_cuda or not torch.backends.mkldnn.is_available() or not hasattr(ops, "_linear_pointwise"):
        return ways
    packed = ops._reorder_linear_weight(b, len(a))
    return ways | {
        "oneDNN": lambda: ops._linear_pointwise(a, b, None, "none", [], ""),
        "oneDNN, packed": lambda: ops._linear_pointwise(a, packed, None, "none", [], ""),
    }


def _best(work: Callable[[], Tensor], repeats: int) -> float:
    found = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work().flatten()[0].item()  # waits for a GPU, too
        found.append(time.perf_counter() - began)
    return min(found[1:])
