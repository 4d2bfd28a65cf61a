"""Commands that succeed: what they print, and that stdout is nothing but strict JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import accord as api
from accord import config
from accord.cli import app, print_json
from accord.data.groups import read_groups, write_groups
from accord.ledger import Ledger
from accord.records import Group, Judgement, Prompt

# Krippendorff, Content Analysis, ch. 12: four observers, twelve units, a dot for a missing value.
KRIPPENDORFF = {
    "A": "1 2 3 3 2 1 4 1 2 . . .",
    "B": "1 2 3 3 2 2 4 1 2 5 . 3",
    "C": ". 3 3 3 2 3 4 2 2 5 1 .",
    "D": "1 2 3 3 2 4 4 1 2 5 1 .",
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "ratings.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["unit", "observer", "value"])
        for observer, values in KRIPPENDORFF.items():
            for unit, value in enumerate(values.split(), 1):
                writer.writerow([unit, observer, "" if value == "." else value])
    return path


def columns(*more: str) -> list[str]:
    return ["--unit", "unit", "--rater", "observer", "--value", "value", *more]


def test_help_and_import_load_nothing_heavy() -> None:
    code = (
        "import sys, accord\n"
        "from accord.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'pydantic', 'sqlalchemy', 'yaml', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for command in ("sft", "sample", "ask", "reward", "ppo", "eval", "quickstart", "verify", "chat"):
        assert f"\n  {command} " in done.stdout


def test_every_command_has_help(accord: Any) -> None:
    for command in app.registered_commands:
        name = command.name or command.callback.__name__  # type: ignore[union-attr]
        outcome = accord(name, "--help")
        assert outcome.status == 0, name
        assert f"accord {name}" in outcome.out


@pytest.mark.parametrize("stage", sorted(api.STAGES))
def test_stage_help_lists_every_setting_with_its_default(accord: Any, stage: str) -> None:
    out = accord(stage, "--help").out
    schema = getattr(config, api.STAGES[stage][0])
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("--")}
    for name, _, default, description in config.describe(schema):
        assert default in rows[f"--{name}"]
        assert description and description in rows[f"--{name}"]


def test_strict_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": math.nan, "b": [1.5, math.inf, {"c": (-math.inf, "ü")}], 3: None})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5, None, {"c": [None, "ü"]}], "3": None}


def test_agreement_of_krippendorffs_table_in_a_process_of_its_own(table: Path) -> None:
    code = "from accord.cli import main; main()"
    command = [sys.executable, "-c", code, "agreement", str(table), *columns("--level", "nominal")]
    done = subprocess.run([*command, "--bootstrap", "200"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert done.stderr == ""
    assert found["alpha"] == pytest.approx(0.743, abs=5e-4)
    assert found["alpha_low"] < found["alpha"] < found["alpha_high"]
    assert (found["n_raters"], found["n_units"], found["n_values"], found["n_pairable"]) == (4, 12, 41, 40)


@pytest.mark.parametrize(("level", "alpha"), [("ordinal", 0.815), ("interval", 0.849), ("ratio", 0.797)])
def test_agreement_at_the_other_levels(accord: Any, table: Path, level: str, alpha: float) -> None:
    found = accord("agreement", table, *columns("--level", level, "--bootstrap", "0")).json
    assert found["alpha"] == pytest.approx(alpha, abs=5e-4)
    assert found["alpha_low"] is None


def test_an_undefined_alpha_is_said_and_never_printed_as_a_number(accord: Any, tmp_path: Path) -> None:
    path = tmp_path / "unanimous.csv"
    path.write_text("unit,observer,value\n1,A,4\n1,B,4\n2,A,4\n2,B,4\n")
    outcome = accord("agreement", path, *columns())
    assert outcome.status == 0
    assert outcome.json["alpha"] is None
    assert outcome.json["raw"] == 1.0
    assert "alpha is undefined" in outcome.err and "nothing varies" in outcome.err


def test_sft_then_sample(
    accord: Any, model: Path, demonstrations: Path, prompts: Path, tmp_path: Path
) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text(f"model: {model}\ndata: {demonstrations}\nepochs: 2\nbatch_size: 2\n")
    trained = accord("sft", "--config", file, "--out", tmp_path / "sft", "--epochs", "1")
    assert trained.status == 0
    assert trained.json["steps"] == 2, "the flag wins over the file"
    assert "4 of 4 rows used" in trained.err
    assert (tmp_path / "sft" / "model" / "model.safetensors").exists()

    sampled = accord(
        "sample", "--model", trained.json["model"], "--prompts", prompts, "--k", "2",
        "--max_new_tokens", "4", "--out", tmp_path / "samples.jsonl",
    )  # fmt: skip
    assert sampled.json["answers"] == 4
    groups = read_groups(tmp_path / "samples.jsonl")
    assert [len(g.completions) for g in groups] == [2, 2]


def test_chat_answers_until_an_empty_line(accord: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n\nnever read\n"))
    outcome = accord("chat", model, "--max-new-tokens", "3", "--temperature", "0")
    assert outcome.status == 0
    assert outcome.out.count("you:") == 2
    assert sys.stdin.read() == "never read\n"


def test_check_lists_each_bad_row_with_its_place(accord: Any, preferences: Path) -> None:
    with preferences.open("a") as file:
        file.write(
            '{"prompt": "Hi", "chosen": "a", "rejected": "a"}\n{"prompt": "Hi", "chosen": "a"}\nnot json\n'
        )
    outcome = accord("check", preferences)
    lines = outcome.out.splitlines()
    assert outcome.status == 0
    assert [line.split(": ")[0] for line in lines] == [f"{preferences}:{n}" for n in (7, 8, 9)]
    assert lines[0].endswith("chosen = rejected")
    assert "6 of 9 rows used" in outcome.err


def test_quickstart_and_run_read_their_file_and_flags(
    accord: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[config.RunConfig] = []

    def run(settings: config.RunConfig, console: object) -> Path:
        seen.append(settings)
        return settings.out / "report.html"

    monkeypatch.setitem(sys.modules, "accord.loop.rounds", SimpleNamespace(run=run))
    outcome = accord("quickstart", "--out", tmp_path / "here", "--seed", "3", "--ppo.k", "2")
    file = tmp_path / "mine.yaml"
    file.write_text("rounds: 2\nout: mine\n")
    accord("run", file, "--seed", "4")
    first, second = seen
    assert outcome.json["report"] == str(tmp_path / "here" / "report.html")
    assert outcome.json["numbers"] == str(tmp_path / "here" / "report.json")
    assert (first.seed, first.ppo["k"], first.ppo["iterations"] > 1) == (3, 2, True)
    assert (second.rounds, second.out, second.seed, second.ppo) == (2, Path("mine"), 4, {})


# --------------------------------------------------------------------------- a person at the terminal


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    path = tmp_path / "samples.jsonl"
    groups = [Group.of(Prompt.of(f"Question {i}?"), f"Answer {i}.", f"Reply {i}.") for i in range(5)]
    write_groups(path, groups)
    return path


def ask_me(accord: Any, samples: Path, keys: str, monkeypatch: pytest.MonkeyPatch, release: str) -> Any:
    monkeypatch.setattr(sys, "stdin", io.StringIO(keys))
    return accord(
        "ask", "--raters", "me", "--samples", samples, "--ledger", samples.parent / "ledger.sqlite",
        "--release", release, "--out", samples.parent / "preferences.jsonl",
    )  # fmt: skip


def chosen_side(judgement: Judgement) -> str:
    if judgement.strength == 0:
        return "tie"
    return "left" if (judgement.strength > 0) == (judgement.shown[0] == 0) else "right"


def test_a_person_answers_ties_skips_and_stops(
    accord: Any, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = ask_me(accord, samples, "1\nx\n2\nt\ns\nq\n", monkeypatch, "first")
    assert outcome.status == 0
    assert (outcome.json["items"], outcome.json["judgements"]) == (5, 3)
    assert outcome.json["raters"] == ["me"]
    assert outcome.json["simulated"] is False
    assert "Which answer is better?" in outcome.err, "the guideline is shown"
    assert "Please select one of the available options" in outcome.err, "x is no key"
    with Ledger.open(samples.parent / "ledger.sqlite", create=False) as ledger:
        judgements = ledger.release_judgements("first")
    assert sorted(map(chosen_side, judgements)) == ["left", "right", "tie"]
    assert {j.rater_kind for j in judgements} == {"human"}
    assert len((samples.parent / "preferences.jsonl").read_text().splitlines()) == 3


def test_what_was_answered_is_kept_when_the_input_ends_and_asking_goes_on(
    accord: Any, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = ask_me(accord, samples, "1\n2\n", monkeypatch, "first")
    assert cut.status == 2
    assert cut.out == ""
    assert "what was answered is kept" in cut.err.splitlines()[-1]
    rest = ask_me(accord, samples, "1\n1\n1\n", monkeypatch, "first")
    assert rest.json["judgements"] >= 4, "the question that was on the screen may still be held"


@pytest.mark.parametrize("n_bad", [2, 25])
def test_a_run_names_the_rows_that_it_left_out(
    accord: Any, model: Path, demonstrations: Path, tmp_path: Path, n_bad: int
) -> None:
    with demonstrations.open("a") as file:
        file.write('{"prompt": "[red]Hi", "completion": ""}\n' * n_bad)
    outcome = accord(
        "sft", "--model", model, "--data", demonstrations, "--out", tmp_path / "o", "--epochs", 1
    )
    assert outcome.status == 0
    named = [line for line in outcome.err.splitlines() if line.startswith(f"  {demonstrations}:")]
    assert named[0] == f"  {demonstrations}:5: completion is empty"
    assert len(named) == min(n_bad, 20)
    more = f"and 5 more; `accord check {demonstrations} --kind demonstrations` lists them all"
    assert (more in outcome.err) == (n_bad == 25)


def test_people_compare_two_policies(accord: Any, tmp_path: Path) -> None:
    def row(question: str, before: str, after: str) -> dict[str, Any]:
        versions = {"policy_before": "old", "policy_after": "new"}
        return {
            "messages": [{"role": "user", "content": question}],
            **versions,
            "before": before,
            "after": after,
        }

    same, ledger = tmp_path / "same.json", tmp_path / "ledger.sqlite"
    same.write_text(json.dumps([row("Why?", "So.", "So."), row("How?", "Thus.", "Thus. ")]))
    found = accord("compare", same, "--ledger", ledger).json
    assert (found["win_rate_vs_sft"], found["same_text"], found["judgements"]) == (0.5, 2, 0)

    guideline = tmp_path / "guideline.md"
    guideline.write_text("Which answer is the kinder one?")
    other = tmp_path / "other.json"
    other.write_text(json.dumps([row("Why?", "So.", "Because I say so, dear.")]))
    command = ["compare", str(other), "--ledger", str(ledger), "--guideline", str(guideline)]
    code = "from accord.cli import main; main()"
    waits = subprocess.Popen([sys.executable, "-c", code, *command], stdout=subprocess.PIPE, text=True)
    with Ledger.open(ledger) as store:
        told, me = store.add_guideline(guideline.read_text()), store.add_rater("ann", "human")
        while (seen := store.lease(me, told)) is None:
            assert waits.poll() is None
            time.sleep(0.05)
        longer_left = len(seen.left.text) > len(seen.right.text)
        store.submit(seen.id, 3 if longer_left else -3, seconds=1.0)
    out, _ = waits.communicate(timeout=60)
    assert json.loads(out)["win_rate_vs_sft"] == 1.0 and waits.returncode == 0
