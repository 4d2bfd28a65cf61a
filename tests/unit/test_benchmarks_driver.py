"""The benchmarks' driver with made-up timings: both sides, growth, several processes, what is kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from accord.config import GrpoConfig, read_config
from benchmark_world import ROW, load_driver, make_data, make_model

# isort: split
from speed import compare, page, processes, profiling, report, scaling, works
from speed.compare import MeasurementError
from speed.limits import Machine
from speed.task import Measured, Task, read_rows

driver = load_driver()
TASK = Task("dpo", "model", "data")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(model, tmp_path_factory.mktemp("data"))


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
