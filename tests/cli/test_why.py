"""`accord why` and `accord who-trained-on`: from a model back to a person's answer, and forth again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from accord.cli import app
from accord.ledger import Ledger
from accord.records import Completion, Group, Judgement, Prompt, Question, Sampling


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Judgement, str]:
    """A ledger with a release, a model trained on it and one made from that; a judgement; its guideline."""
    path = tmp_path_factory.mktemp("why") / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        ledger.add_policy("sft", base_model="tiny")
        prompt = Prompt.of("Is it raining?", source="rain.jsonl:1")
        texts = ("No.", "Look outside.")
        group = Group(prompt, tuple(Completion(prompt.id, t, (), (), "sft", Sampling(seed=3)) for t in texts))
        ledger.ask([Question(group, "they disagree")])
        ledger.add_rater("ann", "human")
        guideline = ledger.add_guideline("Prefer what helps.")
        (judged,) = ledger.answer_many("ann", guideline, lambda seen: (2 if seen.shown[0] == 1 else -2, 4.0))
        ledger.release("round-1")
        ledger.record_training("ppo-1", "round-1")
        ledger.add_policy("ppo-1", base_model="tiny", parent="sft")
        ledger.add_policy("ppo-2", base_model="tiny", parent="ppo-1")
    return path, judged, guideline


def run(*arguments: str) -> dict[str, object]:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def test_a_model_leads_back_to_the_people(told: tuple[Path, Judgement, str]) -> None:
    path, _, guideline = told
    for model in ("ppo-1", "ppo-2"):  # the second descends from the first
        (release,) = run("why", model, "--ledger", str(path))["releases"]
        assert (release["name"], release["judgements"], release["raters"]) == ("round-1", 1, ["ann"])
        assert release["by_kind_of_rater"] == {"human": 1}
        assert release["guidelines"] == [guideline]
        assert release["asked_because"] == {"they disagree": 1}


def test_a_row_leads_back_to_what_was_asked_shown_and_said(told: tuple[Path, Judgement, str]) -> None:
    path, judged, _ = told
    found = run("why", judged.id, "--ledger", str(path))
    assert found["rater"] == "ann" and found["source"] == "rain.jsonl:1"
    assert found["prompt"] == [{"role": "user", "text": "Is it raining?"}]
    assert found["guideline"]["text"] == "Prefer what helps."
    preferred = [answer for answer in found["answers"] if answer["preferred"]]
    assert [answer["text"] for answer in preferred] == ["Look outside."]
    assert preferred[0]["policy"] == "sft" and preferred[0]["sampling"]["seed"] == 3
    assert {answer["stood"] for answer in found["answers"]} == {"left", "right"}
    assert (found["releases"], found["models"]) == (["round-1"], ["ppo-1", "ppo-2"])


def test_a_judgement_leads_to_every_model_that_it_stands_behind(told: tuple[Path, Judgement, str]) -> None:
    path, judged, _ = told
    found = run("who-trained-on", judged.id, "--ledger", str(path))
    assert found == {"releases": ["round-1"], "models": ["ppo-1", "ppo-2"]}


def test_what_is_not_on_record_is_said(told: tuple[Path, Judgement, str]) -> None:
    for command, message in (("why", "the ledger knows ppo-1"), ("who-trained-on", "is not in the ledger")):
        done = CliRunner().invoke(app, [command, "ghost", "--ledger", str(told[0])])
        said = f"{done.output}{done.exception}"
        assert done.exit_code != 0 and message in " ".join(said.split())
