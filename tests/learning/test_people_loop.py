"""The loop with people as raters: it waits, goes on by itself, can be stopped, and says who compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from accord.config import RunConfig
from accord.errors import ConfigError
from accord.ledger import projects
from accord.ledger import why as lineage
from accord.ledger.ledger import Ledger
from accord.loop import rounds
from accord.stages import people
from accord.training.run import InterruptedRunError
from answering import raters
from tiny import tiny_llama, tiny_tokenizer

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_llama().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "LOOK_AGAIN", 0.02)


def settings(model: str, out: Path, **changes: object) -> RunConfig:
    values: dict[str, object] = {
        "model": model,
        "out": out,
        "raters": "people",
        "sft": {"epochs": 0.2, "optim": {"learning_rate": 1e-3}},
        "sample": {"k": 2, "max_new_tokens": 6, "limit": 8},
        "ask": {"overlap": 2, "overlap_share": 0.0, "aggregate": "reliability"},
        "reward": {"epochs": 1, "batch_size": 4, "held_out": 0.5},
        "ppo": {"iterations": 1, "prompts_per_iteration": 2, "k": 2, "max_new_tokens": 6},
        "eval": {"max_new_tokens": 6},
    }
    return RunConfig.model_validate({**values, **changes})


def test_it_waits_for_people_and_goes_on_by_itself(model: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    heard: list[people.Waiting] = []
    console = Console(record=True, width=300, force_terminal=False)
    with raters(out, "ann", "bob", "cyd"), pytest.MonkeyPatch.context() as patch:
        tell = rounds.Live.waiting
        patch.setattr(rounds.Live, "waiting", lambda self, w: (heard.append(w), tell(self, w))[1])
        rounds.run(settings(model, out), console)
    said = console.export_text()
    assert "waiting for 16 judgements" in said or heard[0].given > 0
    assert f"accord serve --db {out / 'ledger.sqlite'}" in said
    asked = [w for w in heard if w.project == "answers"]
    assert asked[-1].given >= asked[-1].needed == asked[-1].wanted == 16

    report = json.loads((out / "report.json").read_text())
    assert report["simulated_raters"] is False and set(report["raters"]) <= {"ann", "bob", "cyd"}
    policy = report["policy"]
    assert policy["compared_by"] == "people" and set(policy["evaluators"]) <= {"ann", "bob", "cyd"}
    assert 0 <= policy["low"] <= policy["win_rate_vs_sft"] <= policy["high"] <= 1
    assert report["best_of_n"] is None
    page = (out / "report.html").read_text()
    assert "people on random sides" in page and "raters were simulated" not in page
    live = json.loads((out / "live.json").read_text())
    assert live["ended"] == "finished" and live["waiting"] is None
    assert live["steps"][-2:] == ["round-1/compare", "round-1/gate"]


def test_what_measures_a_policy_never_trains_one_and_why_walks_to_each_judgement(
    model: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with raters(out, "ann", "bob"):
        rounds.run(settings(model, out, rounds=2), QUIET)
    with Ledger.open(out / "ledger.sqlite") as ledger:
        assert ledger.verify().ok
        released = {j.id for j in ledger.release_judgements("round-2")}
        with ledger.reading() as connection:
            measuring = people.find_project(connection, "evaluation")
            items = projects.item_ids(connection, measuring)
            told = lineage.why_model(connection, str(out / "round-2" / "reward" / "model"))
            one = lineage.why_judgement(connection, next(iter(released)))
        assert items and not released & {j.id for j in ledger.judgements(item_ids=items)}
        # Labels are made of the release's judgements, so a model leads to every one of them.
        assert [r["name"] for r in told["releases"]] == ["round-2"]
        assert told["releases"][0]["judgements"] == len(released) == 32
        assert str(out / "round-1" / "reward" / "model") in one["models"] or "round-1" not in one["releases"]
    record = json.loads((out / "round-1" / "reward" / "model" / "accord.json").read_text())
    assert record["aggregate"] == "reliability"
    assert record["comparisons"] * 2 == record["judgements"]  # two people a pair, one label


def test_it_can_be_stopped_while_it_waits_and_goes_on(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def ctrl_c(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(people.time, "sleep", ctrl_c)
        with pytest.raises(InterruptedRunError, match=r"0 of 16 judgements .* same command again"):
            rounds.run(settings(model, out), QUIET)
    live = json.loads((out / "live.json").read_text())
    assert live["step"] == "round-1/ask" and "stopped while waiting" in live["ended"]
    assert live["waiting"]["needed"] == 16
    # The same run, content with less, goes on where it was; nothing is asked twice.
    less = settings(
        model, out, ask={"overlap": 2, "overlap_share": 0.0, "aggregate": "reliability", "wait": 5}
    )
    with raters(out, "ann", "bob", most=40), monkeypatch.context() as patch:
        patch.setattr(rounds.sample, "run", ctrl_c)
        rounds.run(less, QUIET)
    with Ledger.open(out / "ledger.sqlite") as ledger, ledger.reading() as connection:
        assert len(projects.item_ids(connection, people.find_project(connection, "answers"))) == 8
        assert len(ledger.release_judgements("round-1")) >= 5


def test_without_evaluators_there_is_no_win_rate_and_it_says_so(model: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with raters(out, "ann", "bob"):
        rounds.run(settings(model, out, evaluators="none"), QUIET)
    report = json.loads((out / "report.json").read_text())
    assert report["policy"]["win_rate_vs_sft"] is None and report["policy"]["compared_by"] == "none"
    assert report["accepted"] is True
    page = (out / "report.html").read_text()
    assert "Nobody compared the policies" in page and "there is no win rate" in page
    with Ledger.open(out / "ledger.sqlite") as ledger, ledger.reading() as connection:
        assert people.find_project(connection, "evaluation") is None


def test_more_than_is_wanted_cannot_be_waited_for(model: str, tmp_path: Path) -> None:
    config = settings(model, tmp_path / "run", ask={"wait": 1000})
    with pytest.raises(ConfigError, match=r"ask\.wait is 1000, but only \d+ judgements are wanted"):
        rounds.run(config, QUIET)
