"""The benchmarks' driver, on tiny models and made-up timings; what is fast is not asserted anywhere."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from accord.config import Lora
from accord.data.batches import collate
from accord.data.render import Encoded, Renderer
from accord.models.adapters import Trunk
from accord.records import Preference, Prompt
from tiny import tiny_llama, tiny_tokenizer

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from speed import report, rows  # noqa: E402
from speed.limits import (  # noqa: E402
    Machine,
    Shape,
    Tokens,
    backward,
    decoding_seconds,
    forward,
    limit_seconds,
    tokens_of,
)
from speed.rewards import variety  # noqa: E402
from speed.task import Measured, Task, read_rows, spread  # noqa: E402


def load_driver() -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_driver", BENCHMARKS / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


driver = load_driver()
TASK = Task("dpo", "model", "data")
MACHINE = Machine(100.0, 10.0)
TINY = Shape(layers=2, hidden=32, queries=32, keys=16, feed_forward=64, vocabulary=259)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model with two special tokens to spare, and the folder made of it for the benchmarks."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer()
    extra = ["<|im_start|>", "<|im_end|>", "<one>", "<two>"]
    tokenizer.add_special_tokens({"extra_special_tokens": extra})
    tiny_llama(vocab=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(rows.write_model(str(folder), folder / "prepared", "float32"))


@pytest.fixture(scope="module")
def data(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    made = [Preference(Prompt.of(f"Say {i}."), "yes " * (i + 1), "no") for i in range(4)]
    return str(rows.write(tmp_path_factory.mktemp("data"), made, renderer_of(model)))


def renderer_of(model: str) -> Renderer:
    from transformers import AutoTokenizer

    return Renderer(AutoTokenizer.from_pretrained(model))


# --- the driver --------------------------------------------------------------------------------------------


def test_both_sides_alternate_and_medians_are_compared() -> None:
    calls: list[str] = []
    made = {
        "ours": [Measured([1.0, 2.0], 7, [0.5], 1.0), Measured([3.0, 90.0], 7, [0.5], 3.0)],
        "peer": [Measured([10.0, 11.0], 7, [0.5], 8.0), Measured([9.0, 12.0], 7, [0.5], 8.0)],
    }

    def run(side: str, task: Task, peer: str) -> Measured:
        calls.append(f"{side} {task.work} {peer}")
        return made[side].pop(0)

    found = driver.compare(TASK, "trl-9", 2, run)
    assert calls == ["ours dpo trl-9", "peer dpo trl-9"] * 2
    assert (found["ours_seconds"], found["peer_seconds"]) == (2.5, 10.5)
    assert (found["speed_ratio"], found["memory_ratio"]) == (4.2, 0.25)
    assert found["ours_range"] == [1.0, 90.0] and found["steps"] == 4


def test_a_failing_measurement_shows_its_error(tmp_path: Path) -> None:
    task = replace(TASK, model=str(tmp_path), data=str(tmp_path))
    with pytest.raises(SystemExit, match=r"(?s)ours no-such-work failed:.*KeyError: 'no-such-work'"):
        driver.run_process("ours", replace(task, work="no-such-work"), "trl-9")


def test_what_is_varied_is_what_changes(model: str, tmp_path: Path) -> None:
    arguments = driver.parse(["--model", model, "--preferences", "none", "--pairs", "4", "--full"])
    bench = driver.Bench(arguments, tmp_path)

    def lengths(label: str, value: Any) -> list[dict[str, Any]]:
        return read_rows(f"{driver.varied(bench, label, 'dpo', value).data}/lengths.jsonl")

    assert len(lengths("pairs per step", 2)) == 2 and len(lengths("prompt tokens", 200)) == 4
    short, long = (sum(r["prompt"] for r in lengths("prompt tokens", n)) for n in (100, 200))
    assert 1.5 < long / short < 3
    uneven = lengths("length of rejected / chosen", 6)
    assert sum(r["rejected"] for r in uneven) > 4 * sum(r["chosen"] for r in uneven)
    task = driver.varied(bench, "answers per prompt", "grpo", 4)
    assert (task.prompts, task.answers, task.sampled, task.lora) == (4, 4, 16, False)


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
    assert work in driver.WORKS and work in report.TARGETS


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
    counted = {torch.ops.aten.addmm_: lambda _, a, b, **rest: 2 * a[0] * a[1] * b[1]}
    with trunk.use("policy") as policy:
        with FlopCounterMode(display=False, custom_mapping=counted) as counter:
            logits = policy(input_ids=ids_BL, use_cache=False).logits
        assert counter.get_total_flops() == pytest.approx(forward(TINY, whole, lora=lora), rel=0.01)
        with FlopCounterMode(display=False, custom_mapping=counted) as counter:
            logits.sum().backward()
    # torch computes no gradient for the first layer's frozen inputs, hence the tolerance
    assert counter.get_total_flops() == pytest.approx(backward(TINY, whole, lora=lora), rel=0.08)


def test_attended_pairs_are_those_of_the_mask() -> None:
    groups = [(5, [3, 4, 2]), (2, [6])]
    encoded = [Encoded(tuple(range(p)), tuple(tuple(range(a)) for a in answers)) for p, answers in groups]
    expected = 0
    for group in encoded:
        batch = collate([group])
        if int(batch.segments_BL.shape[0]) > 1:
            continue  # the layout split it: its prompt is then not in memory once
        real_BL = batch.segments_BL >= 0
        expected += int((batch.mask_B1LL[:, 0] & real_BL[:, :, None]).sum())
    tokens = tokens_of(groups)
    assert (tokens.positions, tokens.scored, tokens.attended) == (22, 15, expected)


def test_decoding_is_bound_by_reading_or_by_arithmetic() -> None:
    reading = decoding_seconds(TINY, [8], 1, 10, Machine(1e12, 1.0))
    weights = 4 * (TINY.linear + TINY.hidden * TINY.vocabulary)
    cache = sum(4 * 2 * TINY.layers * TINY.keys * (8 + t) for t in range(10))
    assert reading == pytest.approx((10 * weights + cache) / 1e9)
    computing = decoding_seconds(TINY, [8], 4, 10, Machine(1.0, 1e12))
    assert computing > 4 * 10 * 2 * (weights / 4) / 1e9


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


# --- the page ----------------------------------------------------------------------------------------------

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


def test_a_later_run_adds_to_the_results(tmp_path: Path) -> None:
    path = tmp_path / "performance.json"
    report.write(report.merge(path, {"dpo": ROW}, MACHINE, ""), tmp_path)
    report.write(report.merge(path, {"sft": {**ROW, "speed_ratio": 3.25}}, MACHINE, ""), tmp_path)
    report.write(report.merge(path, {"dpo": {**ROW, "speed_ratio": 2.5}}, MACHINE, "full"), tmp_path)
    found = json.loads(path.read_text())
    needed = {"speed_ratio", "memory_ratio", "ours_seconds", "peer_seconds", "fraction_of_limit"}
    assert needed <= found["dpo"].keys() & found["sft"].keys()
    assert found["dpo"]["speed_ratio"] == 6.5 and found["variants"]["full"]["dpo"]["speed_ratio"] == 2.5
    assert found["machine"]["gflops"] == 100.0 and found["dpo"]["when"]
    page = (tmp_path / "performance.md").read_text()
    row = (
        "| dpo: 8 pairs | 2.00 [1.90, 2.20] | 13.00 [12.00, 14.00] | **6.5** (≥ 5) | 2.0 | 8.0 | "
        "**0.25** (≤ 0.33) | 62% | 10% |"
    )
    assert row in page and page.index("| sft") < page.index("| dpo: ")
    assert "| full | dpo |" in page and "$" not in page
    assert (tmp_path / "performance.svg").read_text().count("6.5") >= 1


def test_the_page_shows_growth_processes_and_start_up(tmp_path: Path) -> None:
    new = {
        "start-up": {"speed_ratio": 20.0, "ours_seconds": 0.2, "peer_seconds": 4.0},
        "scaling": {"prompt tokens": {"work": "dpo", "rows": [{"value": 512, **ROW}]}},
        "processes": {"work": "dpo-cached", "1": 3.0, "2": 2.0},
    }
    report.write(report.merge(tmp_path / "performance.json", new, MACHINE, ""), tmp_path)
    page = (tmp_path / "performance.md").read_text()
    assert "| start-up | 0.20 | 4.00 | **20.0** |" in page
    assert "| 512 | 2.00 | 13.00 | 6.5 | 2.0 | 8.0 |" in page
    assert "takes 3.00 s in one process" in page and "1.50 times as fast" in page


def test_a_page_without_results_is_still_a_page(tmp_path: Path) -> None:
    report.write(report.merge(tmp_path / "performance.json", {}, MACHINE, ""), tmp_path)
    assert "100.0 GFLOP/s" in (tmp_path / "performance.md").read_text()
