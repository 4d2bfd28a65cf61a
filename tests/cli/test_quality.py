"""`accord quality` on a ledger of planted raters: strict JSON, tables, groups, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from accord.feedback.panel import SimulatedRater
from accord.ledger import Ledger
from accord.records import Completion, Group, Prompt, Question

RATERS = ("ann", "bob", "cyd", "left")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pairs, each judged by three good raters and one who nearly always clicks left; one release."""
    path = tmp_path_factory.mktemp("quality") / "ledger.sqlite"
    with Ledger.open(path) as store:
        guideline = store.add_guideline("Choose the better answer.")
        questions = []
        for i in range(30):
            prompt = Prompt.of(f"question {i}")
            answers = tuple(
                Completion(prompt.id, f"{quality} {i} " + "word " * 10, index=quality) for quality in range(2)
            )
            questions.append(Question(Group(prompt, answers), "test", overlap=len(RATERS)))
        store.ask(questions)
        for name in RATERS:
            rater = SimulatedRater(name, {"q": 2.5}, position_bias=6.0 if name == "left" else 0.0)
            rng = np.random.default_rng(len(name) + ord(name[0]))
            store.add_rater(name, "simulated")

            def answer(seen, rater=rater, rng=rng):
                left, right = ({"q": float(side.text[0])} for side in (seen.left, seen.right))
                return rater.judge(left, right, rng)

            store.answer_many(name, guideline, answer, seed=7)
        store.release("one")
    return path


def test_json_has_every_part(accord, ledger):
    found = accord("quality", f"{ledger}#one", "--bootstrap", 50).json
    assert (found["judgements"], found["pairs"], found["raters"], found["simulated"]) == (120, 30, 4, True)
    assert set(found) == {
        *("judgements", "pairs", "raters", "simulated", "ties", "agreement", "kappa", "ceiling"),
        *("by_rater", "copying", "reliability", "by_guideline", "over_time", "change"),
        *("adjudication", "rankings"),
    }
    assert found == accord("quality", ledger, "--bootstrap", 50).json  # the release is all there is
    flags = {rater["rater"]: [flag["kind"] for flag in rater["flags"]] for rater in found["by_rater"]}
    assert "side" in flags["left"] and not flags["ann"]
    skill = {rater["rater"]: rater["side_bias"]["value"] for rater in found["reliability"]["raters"]}
    assert skill["left"] > 1 > abs(skill["ann"])
    assert found["kappa"]["cohen"] and found["kappa"]["fleiss"]["n"] == 30
    assert len(found["over_time"]) == 8 and found["change"]["p_value"] is not None
    assert found["reliability"]["pairs"] == [] and found["reliability"]["n_pairs"] == 30
    pairs = accord("quality", ledger, "--bootstrap", 0, "--pairs").json["reliability"]["pairs"]
    assert {"soft_label", "margin", "weight"} <= set(pairs[0]) and len(pairs) == 30


def test_text_shows_raters_and_flags(accord, ledger):
    out = accord("quality", ledger, "--text", "--bootstrap", 50).out
    assert "120 judgements of 30 pairs by 4 raters" in out and "Simulated raters, no people" in out
    assert "Krippendorff's alpha" in out and "left: side: chose the left answer" in out


def test_groups_of_few_are_withheld(accord, ledger, tmp_path):
    table = tmp_path / "groups.csv"
    table.write_text("rater,group\nann,north\nbob,north\n")
    found = accord("quality", ledger, "--groups", table, "--bootstrap", 0).json["by_group"]
    assert found["groups"] == [] and "fewer than 5 people" in found["withheld"]
    table.write_text("who,group\nann,north\n")
    refused = accord("quality", ledger, "--groups", table)
    assert refused.status == 2 and "columns rater and group" in refused.err


def test_what_it_refuses(accord, ledger, tmp_path):
    missing = accord("quality", f"{ledger}#two")
    assert missing.status == 2 and "release 'two' is not in the ledger" in missing.err
    with Ledger.open(tmp_path / "empty.sqlite"):
        pass
    empty = accord("quality", tmp_path / "empty.sqlite")
    assert empty.status == 2 and "no judgements to measure" in empty.err
