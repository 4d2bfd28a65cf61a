"""The benchmarks' driver, on tiny models and made-up timings; what is fast is not asserted anywhere."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from accord.config import GrpoConfig, Lora, read_config
from accord.data.render import Renderer
from accord.models.adapters import Trunk
from accord.records import Preference, Prompt
from tiny import tiny_llama, tiny_tokenizer

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from speed import compare, limits, page, processes, profiling, report, rows, scaling, works  # noqa: E402
from speed.compare import MeasurementError  # noqa: E402
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


# --- both sides --------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "STAT", Path("nowhere"))  # nobody else is on the machine


def runner(seconds: Callable[[str, Task], float], calls: list[str]) -> Any:
    def run(side: str, task: Task, peer: str) -> Measured:
        calls.append(side)
        return Measured([seconds(side, task)], 7, [0.5], 2.0)

    return run


def test_both_sides_alternate_and_medians_are_compared() -> None:
    calls: list[str] = []
    made = {
        "ours": [Measured([1.0, 2.0], 7, [0.5], 1.0), Measured([3.0, 90.0], 7, [0.5], 3.0)],
        "peer": [Measured([10.0, 11.0], 7, [0.5], 8.0), Measured([9.0, 12.0], 7, [0.5], 8.0)],
    }

    def run(side: str, task: Task, peer: str) -> Measured:
        calls.append(f"{side} {task.work} {peer}")
        return made[side].pop(0)

    found = compare.compare(TASK, "trl-9", 2, run)
    assert calls == ["ours dpo trl-9", "peer dpo trl-9"] * 2
    assert (found["ours_seconds"], found["peer_seconds"]) == (2.5, 10.5)
    assert (found["speed_ratio"], found["memory_ratio"]) == (4.2, 0.25)
    assert found["ours_range"] == [1.0, 90.0] and found["steps"] == 4
    assert "peer_failed" not in found


def test_a_peer_that_fails_is_left_out_and_ours_goes_on() -> None:
    calls: list[str] = []

    def seconds(side: str, task: Task) -> float:
        if side == "peer":
            raise MeasurementError("peer dpo was killed\nwith a long story")
        return float(len(calls))

    found = compare.compare(TASK, "trl-9", 3, runner(seconds, calls))
    assert calls == ["ours", "peer", "ours", "ours"]
    assert found["peer_failed"] == "peer dpo was killed" and found["ours_seconds"] == 3.0
    assert not {"peer_seconds", "speed_ratio", "memory_ratio"} & found.keys()


def test_ours_may_not_fail_and_may_run_alone() -> None:
    def fails(side: str, task: Task) -> float:
        raise MeasurementError(side)

    with pytest.raises(MeasurementError, match="ours"):
        compare.compare(TASK, "trl-9", 2, runner(fails, []))
    calls: list[str] = []
    found = compare.compare(TASK, "trl-9", 2, runner(lambda *_: 1.0, calls), alone=True)
    assert calls == ["ours", "ours"] and "peer_seconds" not in found


def test_a_failing_measurement_shows_its_error(tmp_path: Path) -> None:
    task = replace(TASK, model=str(tmp_path), data=str(tmp_path), work="no-such-work")
    with pytest.raises(MeasurementError, match=r"(?s)ours no-such-work failed:.*KeyError: 'no-such-work'"):
        compare.run_process("ours", task, "trl-9")


def test_a_killed_process_is_said_to_have_lacked_memory() -> None:
    kill = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    with pytest.raises(MeasurementError, match="ours was killed, as happens when memory runs out"):
        compare.run_command(kill, {}, "ours")


def test_what_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a signal that torchrun hands on."""
    ended: list[str] = []

    class Endless:
        def __init__(self, command: list[str], **settings: Any) -> None:
            self.command = command

        def communicate(self, timeout: float) -> tuple[str, str]:
            raise compare.subprocess.TimeoutExpired(self.command, timeout)

        def terminate(self) -> None:
            ended.extend(self.command)

    monkeypatch.setattr(compare.subprocess, "Popen", Endless)
    with pytest.raises(MeasurementError, match="ours took more than 3600 s"):
        compare.run_command(["torchrun"], {}, "ours")
    assert ended == ["torchrun"]


@pytest.mark.parametrize(("used", "busy"), [(0, 0.0), (10, 0.1), (150, 1.5)])
def test_a_busy_machine_is_warned_of(
    used: int,
    busy: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two cores have 100 ticks each between the looks; user, nice, system, idle, ..., guests (users, too)."""
    path, stat = tmp_path / "stat", "cpu {0} 1 2 {1} 5 0 0 0 {0} 9\ncpu0 1 2 3 4\n"
    path.write_text(stat.format(100, 1000))
    later = stat.format(100 + used, 1000 + 200 - used)
    monkeypatch.setattr(compare, "STAT", path)
    monkeypatch.setattr(compare.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(compare.time, "sleep", lambda seconds: path.write_text(later))
    assert compare.warn_if_busy() == busy
    said = capsys.readouterr().err
    assert ("1.5 of 2 cores busy" in said) if busy > 1 else not said


def test_a_machine_that_does_not_say_how_busy_it_is_gets_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "STAT", tmp_path / "none")
    assert compare.warn_if_busy() is None


# --- growth ------------------------------------------------------------------------------------------------


def tiny_bench(model: str, folder: Path, *arguments: str) -> works.Bench:
    flags = ["--model", model, "--preferences", "none", "--pairs", "4", *arguments]
    return works.Bench(driver.parse(flags), folder)


def test_what_is_varied_is_what_changes(model: str, tmp_path: Path) -> None:
    bench = tiny_bench(model, tmp_path, "--full")

    def lengths(label: str, value: Any) -> list[dict[str, Any]]:
        return read_rows(f"{scaling.varied(bench, label, value).data}/lengths.jsonl")

    assert len(lengths("pairs per step", 2)) == 2 and len(lengths("prompt tokens", 200)) == 4
    short, long = (sum(r["prompt"] for r in lengths("prompt tokens", n)) for n in (100, 200))
    assert 1.5 < long / short < 3
    uneven = lengths("length of rejected / chosen", 6)
    assert sum(r["rejected"] for r in uneven) > 4 * sum(r["chosen"] for r in uneven)
    task = scaling.varied(bench, "answers per prompt", 4)
    assert (task.prompts, task.answers, task.sampled, task.lora) == (4, 4, 16, False)
    assert task.work == "grpo" and task.steps == 1
    few, many = (lengths("pairs per step", n) for n in (2, 8))  # more rows are not longer or shorter ones
    assert sum(r["prompt"] for r in many) == pytest.approx(4 * sum(r["prompt"] for r in few), rel=0.2)


SERIES = {
    "pairs per step": scaling.Series("dpo", (2, 3, 4), alone={4: "too large"}),
    "prompt tokens": scaling.Series("sft", (90, 120)),
}


def test_growth_goes_on_with_what_is_missing(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "SCALING", SERIES)
    bench, calls = tiny_bench(model, tmp_path), list[str]()

    def seconds(side: str, task: Task) -> float:
        return 4.0 if side == "peer" else len(read_rows(f"{task.data}/pairs.jsonl"))

    run = runner(seconds, calls)
    kept = list(scaling.scaling(bench, {}, run))
    rows_of = [[row["value"] for row in found["pairs per step"]["rows"]] for found in kept]
    assert rows_of == [[2], [2, 3], [2, 3, 4], [2, 3, 4], [2, 3, 4]]  # one more each time
    assert calls == ["ours", "peer"] * 2 + ["ours"] + ["ours", "peer"] * 2
    rows = kept[-1]["pairs per step"]["rows"]
    assert [row["ours_seconds"] for row in rows] == [2, 3, 4] and rows[0]["speed_ratio"] == 2
    assert rows[2]["peer_failed"] == "too large" and "peer_seconds" not in rows[2]
    calls.clear()
    without = {"pairs per step": {"work": "dpo", "rows": [rows[0], rows[2]]}}
    resumed = list(scaling.scaling(bench, without, run))
    assert calls == ["ours", "peer"] * 3 and resumed[-1] == kept[-1]
    calls.clear()
    assert not list(scaling.scaling(bench, kept[-1], run)) and not calls


def test_what_was_measured_elsewhere_is_not_kept_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report.keep(tmp_path, "scaling", {"prompt tokens": {"work": "dpo", "rows": []}})
    assert "prompt tokens" in report.known(tmp_path, "scaling", "")
    assert report.known(tmp_path, "scaling", "bfloat16") == {}
    monkeypatch.setattr(report, "this_machine", lambda: {"processor": "another"})
    assert report.known(tmp_path, "scaling", "") == {}


# --- the driver --------------------------------------------------------------------------------------------


def test_each_result_is_kept_with_the_ceilings_of_its_own_run(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = iter([Machine(200.0, 10.0), Machine(100.0, 10.0)])
    monkeypatch.setattr(driver, "ceilings", lambda dtype: next(machines))
    run = runner(lambda side, _: 4.0 if side == "peer" else 1.0, [])
    monkeypatch.setattr(driver, "compare", lambda *rest: compare.compare(*rest, run))
    flags = ["--model", model, "--preferences", "none", "--pairs", "2", "--steps", "1", "--repeats", "1"]
    own = ["--docs", str(tmp_path / "docs"), "--work", str(tmp_path / "work"), "--variant", "low"]
    driver.main([*flags, *own, "--only", "sft", "reward", "--dtype", "bfloat16"])
    found = json.loads((tmp_path / "docs" / "performance.json").read_text())["variants"]["low"]
    assert (found["sft"]["gflops"], found["reward"]["gflops"]) == (200.0, 100.0)
    assert found["sft"]["what"] == "2 demonstrations" and found["sft"]["dtype"] == "bfloat16"
    assert found["sft"]["peer_dtype"] == "bfloat16 autocast over float32 weights"
    assert 4 * found["sft"]["peer_fraction_of_limit"] == pytest.approx(
        found["sft"]["fraction_of_limit"], abs=0.003
    )


def test_a_part_that_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_step(bench: Any, name: str) -> dict[str, Any]:
        if name == "sft":
            raise MeasurementError("ours sft failed")
        return ROW

    monkeypatch.setattr(driver, "one_step", one_step)
    with pytest.raises(SystemExit, match="without a result: sft"):
        driver.main(["--only", "sft", "dpo", "--docs", str(tmp_path)])
    assert json.loads((tmp_path / "performance.json").read_text()).keys() >= {"dpo", "machine"}


@pytest.mark.parametrize(("flags", "told"), [([], {"prompt tokens": {}}), (["--again"], {})])
def test_growth_is_told_what_is_known_unless_all_is_measured_again(
    flags: list[str], told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "scaling", lambda bench, before: iter([before]))
    bench = works.Bench(driver.parse(flags), tmp_path)
    assert list(driver.results_of("scaling", bench, {"prompt tokens": {}})) == [told]


def test_everything_is_measured_unless_chosen() -> None:
    assert set(driver.parse([]).only) == {*works.WORKS, "limits", "start-up", "scaling", "processes"}
    assert "rloo" in works.WORKS and set(works.WORKS) < set(page.ORDER)
    with pytest.raises(SystemExit):
        driver.parse(["--peer_weights", "bfloat16"])


def test_the_profile_names_the_longest_operations(model: str, data: str) -> None:
    found = profiling.profile(Task("sft", model, data, steps=1))
    assert len(found.top) == profiling.TOP and all(calls > 0 for _, calls, _ in found.top)
    assert sum(name.startswith("aten::") for name, *_ in found.top) > 5
    seconds = [s for *_, s in found.top]
    assert seconds == sorted(seconds, reverse=True) and sum(seconds) <= found.seconds
    again = profiling.Profile(**json.loads(json.dumps(asdict(found))))
    assert len(profiling.table(again).splitlines()) == profiling.TOP + 1


def test_shares_of_a_profile_are_of_all_operations() -> None:
    class Event:
        def __init__(self, key: str, count: int, self_cpu_time_total: float) -> None:
            self.key, self.count, self.self_cpu_time_total = key, count, self_cpu_time_total

    found = profiling.summary([Event("aten::add", 3, 1e6), Event("aten::mm", 2, 3e6)])
    assert found.seconds == 4.0 and found.top == [("aten::mm", 2, 3.0), ("aten::add", 3, 1.0)]
    assert " 75.0%     3.00       2  aten::mm" in profiling.table(found)


# --- two processes -----------------------------------------------------------------------------------------


def test_two_processes_are_compared_with_one(model: str, tmp_path: Path) -> None:
    calls: list[tuple[str, str, int]] = []

    def run(side: str, task: Task, count: int) -> float:
        calls.append((side, task.work, count))
        return 6.0 / count if side == "ours" else 9.0

    kept = list(processes.processes(tiny_bench(model, tmp_path), run))
    names = ["sft", "dpo-cached", "grpo", "dpo"]
    assert [list(found) for found in kept] == [names[: i + 1] for i in range(4)]
    ours, theirs = kept[-1]["dpo-cached"], kept[-1]["dpo"]
    assert (ours["side"], ours["one"], ours["two"], ours["ratio"]) == ("ours", 6.0, 3.0, 2.0)
    assert (theirs["side"], theirs["ratio"]) == ("peer", 1.0)
    assert kept[-1]["grpo"]["what"] == "4 prompts × 4 answers × 64 tokens"
    sides = zip(["ours"] * 3 + ["peer"], names, strict=True)
    assert calls == [(side, name, count) for side, name in sides for count in (1, 2)]


def test_the_command_of_a_stage_has_the_settings_of_the_single_process(
    model: str, data: str, tmp_path: Path
) -> None:
    task = Task("grpo", model, data, steps=1, prompts=2, answers=2, new_tokens=4)
    command = processes.stage_command(task, tmp_path)
    assert command[:3] == ["accord", "grpo", "--config"]
    settings = read_config(GrpoConfig, Path(command[3]), [])
    assert settings.optim.tokens_per_microbatch == processes.BUDGET and settings.optim.learning_rate == 1e-4
    assert (settings.k, settings.iterations, settings.out) == (2, 2, tmp_path / "out")


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
    report.keep(tmp_path, "dpo", {**ROW, "gflops": 187.0})
    report.keep(tmp_path, "sft", {**ROW, "speed_ratio": 3.25})
    low = {"dtype": "bfloat16", "peer_dtype": "bfloat16 autocast", "model": "random-0.5b", "trains": "LoRA"}
    report.keep(tmp_path, "dpo", {**ROW, **low, "gflops": 430.0, "speed_ratio": 2.5}, "bfloat16")
    found = json.loads((tmp_path / "performance.json").read_text())
    needed = {"speed_ratio", "memory_ratio", "ours_seconds", "peer_seconds", "fraction_of_limit"}
    assert needed <= found["dpo"].keys() & found["sft"].keys()
    assert found["dpo"]["speed_ratio"] == 6.5 and found["variants"]["bfloat16"]["dpo"]["speed_ratio"] == 2.5
    assert found["dpo"]["when"] and "load_average" in found["dpo"] and found["machine"]["cores"]
    text = (tmp_path / "performance.md").read_text()
    seconds = "2.00 [1.90, 2.20] | 13.00 [12.00, 14.00]"
    row = f"| dpo: 8 pairs | {seconds} | **6.5** (≥ 5) | 2.0 | 8.0 | **0.25** (≤ 0.33) | 62% | 10% | 187 |"
    assert row in text and text.index("| sft") < text.index("| dpo: ")
    variant = text[text.index("## One step (bfloat16)") :]
    assert "random 0.5B in bfloat16 (TRL: bfloat16 autocast), LoRA." in variant
    assert f"| dpo: 8 pairs | {seconds} | **2.5** | 2.0 | 8.0 | **0.25** | 62% | 10% | 430 |" in variant
    assert "$" not in text
    assert (tmp_path / "performance.svg").read_text().count("6.5") >= 1


def test_the_page_shows_processes_start_up_and_ceilings(tmp_path: Path) -> None:
    start = {"speed_ratio": 20.0, "ours_seconds": 0.2, "peer_seconds": 4.0}
    report.keep(tmp_path, "start-up", start)
    two = {"side": "ours", "what": "8 pairs", "one": 3.0, "two": 2.0, "ratio": 1.5}
    report.keep(tmp_path, "processes", {"dpo-cached": two, "dpo": {**two, "side": "peer"}})
    products = {"torch": 190.0, "oneDNN": 217.0}
    report.keep(tmp_path, "limits", {"float32": {"products": products, "gbytes": 26.0}})
    text = (tmp_path / "performance.md").read_text()
    assert "| start-up | 0.20 | 4.00 | **20.0** |" in text
    assert "| dpo-cached: 8 pairs | Accord | 3.00 | 2.00 | 1.50 |" in text
    assert "| dpo: 8 pairs | TRL | 3.00 |" in text
    assert "| float32 | 190 | 217 | 26 |" in text


def test_the_page_and_its_picture_show_growth_with_and_without_the_peer(tmp_path: Path) -> None:
    ours = {"value": 512, "ours_seconds": 7.25, "ours_gb": 3.0, "peer_failed": "peer dpo was killed"}
    series = {"work": "dpo", "rows": [{"value": 128, **ROW}, ours]}
    report.keep(tmp_path, "scaling", {"prompt tokens": series})
    text = (tmp_path / "performance.md").read_text()
    assert "| 128 | 2.00 [1.90, 2.20] | 13.00 [12.00, 14.00] | 6.5 | 2.0 | 8.0 |" in text
    assert "| 512 | 7.25 | – | – | 3.0 | – |" in text
    assert "TRL at prompt tokens = 512: peer dpo was killed." in text
    assert "](performance-scaling.svg)" in text
    picture = (tmp_path / "performance-scaling.svg").read_text()
    assert "dpo: prompt tokens" in picture
    whole = {"work": "dpo", "rows": [{"value": 128, **ROW}, {**ours, "peer_seconds": 13.0}]}
    report.keep(tmp_path, "scaling", {"prompt tokens": whole})
    points = (tmp_path / "performance-scaling.svg").read_text().count("<use")
    assert points == picture.count("<use") + 1
    report.keep(tmp_path, "scaling", {"prompt tokens": series}, "full")
    assert (tmp_path / page.picture_of("full")).exists() and page.picture_of("full") in (
        tmp_path / "performance.md"
    ).read_text()


def test_a_row_without_a_peer_is_still_a_row(tmp_path: Path) -> None:
    alone = {key: value for key, value in ROW.items() if not key.startswith("peer") and "ratio" not in key}
    report.keep(tmp_path, "dpo", {**alone, "peer_failed": "peer dpo was killed"})
    text = (tmp_path / "performance.md").read_text()
    assert "| dpo: 8 pairs | 2.00 [1.90, 2.20] | – | – (≥ 5) | 2.0 | – | – (≤ 0.33) | 62% | – | – |" in text
    assert "TRL at dpo: peer dpo was killed." in text and not (tmp_path / "performance.svg").exists()


def test_a_page_without_results_is_still_a_page(tmp_path: Path) -> None:
    report.write({"machine": report.this_machine()}, tmp_path)
    assert "Python" in (tmp_path / "performance.md").read_text()
    assert not list(tmp_path.glob("*.svg"))
