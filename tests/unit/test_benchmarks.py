"""The benchmarks' works on tiny models, their rows, and the limit; what is fast is not asserted anywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from accord.config import Lora
from accord.models.adapters import Trunk
from accord.records import Prompt
from benchmark_world import make_data, make_model, renderer_of
from tiny import tiny_llama, tiny_tokenizer

# isort: split
from speed import limits, page, rows, works
from speed.limits import Machine, Shape, Tokens, backward, decoding_seconds, forward, limit_seconds, tokens_of
from speed.rewards import variety
from speed.task import Measured, Task, read_rows, spread

TASK = Task("dpo", "model", "data")
MACHINE = Machine(100.0, 10.0)
TINY = Shape(layers=2, hidden=32, queries=32, keys=16, feed_forward=64, vocabulary=259)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(model, tmp_path_factory.mktemp("data"))


def test_a_task_travels_as_json() -> None:
    task = Task("ppo", "m", "d", prompts=2, answers=8, lora=False)
    assert Task.from_json(task.to_json()) == task and task.sampled == 16


@pytest.mark.parametrize("work", ["sft", "reward", "dpo", "dpo-cached", "grpo", "rloo", "ppo", "sampling"])
def test_our_side_runs_each_work(work: str, model: str, data: str) -> None:
    from speed.ours import OURS

    task = Task(work, model, data, steps=1, prompts=2, answers=2, new_tokens=4)
    found = OURS[work](task)
    assert len(found.seconds) == 1 and found.seconds[0] > 0
    answers = {"sft": ["chosen"]}.get(work, ["chosen", "rejected"])
    trained = sum(row[name] for row in read_rows(f"{data}/lengths.jsonl") for name in answers)
    assert found.tokens == (16 if work in ("grpo", "rloo", "ppo", "sampling") else trained)
    assert len(found.losses) == (0 if work == "sampling" else 2)
    assert work in works.WORKS and work in page.TARGETS


def test_the_reference_is_counted_warm_and_once_per_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speed import ours

    path, passes, ticks = tmp_path / "reference", list[bool](), iter([10.0, 17.0])

    def reference(path: Path) -> None:
        passes.append(path.exists())  # a pass that finds the last one's results costs nothing
        path.touch()

    def cached(task: Task) -> Measured:
        ours.offline.reference_logps(path=path)
        return Measured([1, 2], 5)

    monkeypatch.setattr(ours, "dpo_cached", cached)
    monkeypatch.setattr(ours.offline, "reference_logps", reference)
    monkeypatch.setattr(ours.time, "perf_counter", lambda: next(ticks))
    assert ours.dpo(TASK).seconds == [8, 9] and passes == [False, False]
    assert ours.offline.reference_logps is reference


# --- rows and models ---------------------------------------------------------------------------------------


def test_rows_are_spread_over_all_lengths_and_prompts_are_distinct(model: str, tmp_path: Path) -> None:
    texts = ["x" * n for n in (1, 5, 9, 13, 127, 140)]  # the last, with its end, exceeds 128 tokens
    found = [
        {"prompt": f"p{i % 5}", "chosen": text, "rejected": "n"} for i, text in enumerate([*texts[1:], "x"])
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    kept = rows.hh_rows(path, renderer_of(model), 3)
    assert len({p.prompt.id for p in kept}) == 3
    assert all(len(p.chosen) <= 127 for p in kept)
    assert [len(p.chosen) for p in kept] == sorted(len(p.chosen) for p in kept)
    assert spread(range(10), 5) == [1, 3, 5, 7, 9]


def test_a_prepared_model_never_ends_its_answers_and_pads_with_another_token(model: str) -> None:
    renderer = renderer_of(model)
    assert renderer.tokenizer.convert_ids_to_tokens(renderer.end_id) == "<two>"
    assert renderer.tokenizer.eos_token == "<two>" and renderer.tokenizer.pad_token == "<one>"
    text = renderer.tokenizer.decode(renderer.prompt(Prompt.of("Hi")))
    assert text == "<|im_start|>user\nHi<two>\n<|im_start|>assistant\n"


def test_a_tokenizer_without_spare_tokens_is_refused(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    with pytest.raises(SystemExit, match="no two unused special tokens"):
        rows.write_model(str(tmp_path / "m"), tmp_path / "out", "float32")


def test_the_reward_takes_texts_and_conversations() -> None:
    assert variety(["a b a b", ""]) == [0.5, 0.0]
    assert variety([[{"role": "assistant", "content": "a b"}]], prompts=["p"]) == [1.0]


# --- the limit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True])
def test_counted_arithmetic_is_what_torch_counts(lora: bool) -> None:
    length = 24
    model = tiny_llama(attn_implementation="eager")
    trunk = Trunk(model)
    trunk.add("policy", Lora(r=16) if lora else None, seed=0)
    ids_BL = torch.arange(length)[None]
    whole = Tokens(length, length * length, length)  # torch counts masked attention too
    # torch counts this one only where it makes a new tensor
    counted = {
        torch.ops.aten.addmm_: lambda _, a, b, **rest: 2 * a[0] * a[1] * b[1],
        torch.ops.mkldnn._linear_pointwise: lambda x, w, *rest, **_: 2 * x[0] * x[1] * w[0],
    }
    with trunk.use("policy") as policy:
        with FlopCounterMode(display=False, custom_mapping=counted) as counter:
            logits = policy(input_ids=ids_BL, use_cache=False).logits
        assert counter.get_total_flops() == pytest.approx(forward(TINY, whole, lora=lora), rel=0.01)
        with FlopCounterMode(display=False, custom_mapping=counted) as counter:
            logits.sum().backward()
    # torch computes no gradient for the first layer's frozen inputs, hence the tolerance
    assert counter.get_total_flops() == pytest.approx(backward(TINY, whole, lora=lora), rel=0.08)


@given(st.lists(st.tuples(st.integers(0, 6), st.lists(st.integers(0, 6), max_size=3)), max_size=3))
def test_attended_pairs_are_counted_one_by_one(groups: list[tuple[int, list[int]]]) -> None:
    """A position sees itself, what is before it in its own part, and the prompt that its answer follows."""
    seen = positions = 0
    for prompt, answers in groups:
        for part, length in [(None, prompt), *enumerate(answers)]:
            positions += length
            row = [(None, i) for i in range(prompt)] + [(part, i) for i in range(length) if part is not None]
            own = [place for place in row if place[0] == part]
            seen += sum(1 for me in own for it in row if it[0] != part or it[1] <= me[1])
    tokens = tokens_of(groups)
    assert (tokens.positions, tokens.attended) == (positions, seen)
    assert tokens.scored == sum(sum(answers) for _, answers in groups)


def test_decoding_is_bound_by_reading_or_by_arithmetic() -> None:
    reading = decoding_seconds(TINY, [8], 1, 10, Machine(1e12, 1.0))
    weights = 4 * (TINY.linear + TINY.hidden * TINY.vocabulary)
    cache = sum(4 * 2 * TINY.layers * TINY.keys * (8 + t) for t in range(10))
    assert reading == pytest.approx((10 * weights + cache) / 1e9)
    computing = decoding_seconds(TINY, [8], 4, 10, Machine(1.0, 1e12))
    assert computing > 4 * 10 * 2 * (weights / 4) / 1e9


def test_the_ceiling_is_the_best_of_all_products(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([8.0, 2.0, 4.0, 0.5, 0.25])  # three products, two passes over memory
    monkeypatch.setattr(limits, "_best", lambda way, repeats: (way(), next(times))[1])
    found = limits.measure_machine("bfloat16", size=16, repeats=1)
    assert found.products.keys() == {"torch", "oneDNN", "oneDNN, packed"}
    assert found.gflops == 2 * 16**3 / 2.0 / 1e9 and found.gbytes == 4 * 128 * 32 / 0.25 / 1e9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_ways_to_multiply_are_the_same_product(dtype: torch.dtype) -> None:
    a, b = torch.randn(2, 16, 16).to(dtype).unbind()
    ways = limits._products(a, b)
    torch.testing.assert_close(ways.pop("torch")(), a @ b)
    assert len(ways) == 2
    for way in ways.values():  # a linear layer's weights are transposed
        torch.testing.assert_close(way(), a @ b.T)


def test_half_the_bytes_halve_the_time_of_reading(model: str) -> None:
    shapes = [works.shape_of(model, dtype) for dtype in ("float32", "bfloat16")]
    single, half = (decoding_seconds(shape, [8], 1, 10, Machine(1e12, 1.0)) for shape in shapes)
    assert single == pytest.approx(2 * half)


def test_limits_of_the_works_are_ordered() -> None:
    lengths = [{"prompt": 80, "chosen": 30, "rejected": 40}] * 2
    small = replace(TINY, hidden=256, queries=256, keys=128, feed_forward=512)

    def limit(work: str, **settings: Any) -> float:
        task = replace(Task(work, "m", "d", prompts=2, answers=4), **settings)
        return limit_seconds(task, small, lengths, MACHINE)

    assert limit("dpo", prompts=0) > limit("dpo-cached", prompts=0) > limit("sft", prompts=0)
    assert limit("dpo-cached", prompts=0) > limit("reward", prompts=0)  # no logits
    assert limit("dpo", prompts=0, lora=False) > limit("dpo", prompts=0)
    assert limit("ppo") > limit("grpo") > limit("sampling") > 0
