"""What is said of the raters' answers."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from accord.config import AskConfig
from accord.feedback.agreement import Rating, agreement
from accord.feedback.panel import make_panel
from accord.ledger.ledger import Ledger
from accord.records import Group, Judgement
from accord.scenarios import load_scenario
from accord.stages.ask import ask_panel, questions, summarise


def judgement(item: int, rater: int, strength: int) -> Judgement:
    return Judgement(
        id=f"{item}/{rater}",
        item_id=f"item {item}",
        prompt_id=f"prompt {item // 2}",
        rater=f"rater {rater}",
        rater_kind="simulated",
        completion_ids=("a", "b"),
        strength=strength,
        shown=(0, 1),
        guideline="1",
        seconds=5.0,
    )


def test_raw_agreement_and_its_interval_are_about_who_won() -> None:
    rng = np.random.default_rng(0)
    judged = []
    for item, rater in itertools.product(range(60), range(3)):
        better = 1 if item % 2 else -1
        judged.append(
            judgement(item, rater, int(rng.integers(1, 4)) * (better if rng.random() < 0.8 else -better))
        )
    found = summarise(judged)["agreement"]
    winners = [Rating(j.item_id, j.rater, "a" if j.strength > 0 else "b") for j in judged]
    expected = agreement(winners, level="nominal")
    assert found["raw"] == pytest.approx(expected.raw)
    assert (found["raw_low"], found["raw_high"]) == (expected.raw_low, expected.raw_high)
    assert found["raw_low"] < found["raw"] < found["raw_high"]


def test_the_same_seed_gives_the_same_judgements(tmp_path: Path) -> None:
    scenario = load_scenario("shop")
    groups = [
        Group.of(prompt, *(f"It costs {n} euros. Shall I say more?"[: 12 + 8 * n] for n in range(4)))
        for prompt in scenario.train_prompts[:4]
    ]

    def judged(name: str, seed: int) -> list[tuple[object, ...]]:
        config = AskConfig(samples="", pairs_per_prompt=6, overlap=2, overlap_share=0, seed=seed)
        with Ledger.open(tmp_path / name) as ledger:
            ledger.ask(questions(groups, config))
            guideline = ledger.add_guideline("Which is better?")
            raters = make_panel(3, scenario.base_weights, seed=seed)
            ask_panel(ledger, raters, scenario, guideline, seed, Console(quiet=True))
            ledger.release("all")
            found = ledger.release_judgements("all")
        return sorted((j.item_id, j.rater, j.shown, j.strength) for j in found)

    first = judged("a", 3)
    assert len(first) == 4 * 6 * 2
    assert judged("b", 3) == first
    assert judged("c", 4) != first
