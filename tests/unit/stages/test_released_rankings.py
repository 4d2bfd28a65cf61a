"""Reward models learn from a ledger's rankings: the same as from the file that the ledger exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from accord.config import RewardConfig
from accord.data.render import Encoded
from accord.feedback.labels import aggregate_preferences
from accord.ledger import Ledger, exchange, projects
from accord.ledger.database import utc_now
from accord.records import Group, Prompt, Question
from accord.stages import quality, reward
from accord.stages.compared import aggregated, judges_ceiling, read_compared, scored_pairs
from accord.stages.reward_losses import rankings
from tiny import tiny_llama, tiny_tokenizer

QUIET = Console(quiet=True)
TEXTS = ("aaaa", "bbbb", "cccc", "dddd")
RANKS = dict(zip(TEXTS, (2, 1, 2, 4), strict=True))


@pytest.fixture
def released(tmp_path: Path) -> tuple[str, Path]:
    """A release with two rankings of one question and a pair, and the same as a file of rankings."""
    with Ledger.open(tmp_path / "l.sqlite") as ledger:
        guideline = ledger.add_guideline("g")
        with ledger.writing() as connection:
            now = utc_now()
            project = projects.add_project(connection, "p", "g", overlap=2, form={}, now=now)
            asked = [
                Question(Group.of(Prompt.of("first"), *TEXTS), "r", kind="ranking", overlap=2),
                Question(Group.of(Prompt.of("second"), "aaaa", "bbbb"), "r", overlap=1),
            ]
            projects.add_questions(connection, project, asked, now)
        for name in ("ann", "bob"):
            ledger.add_rater(name, "human")
            ledger.answer_many(
                name,
                guideline,
                lambda seen: ([RANKS[seen.group.completions[slot].text] for slot in seen.shown], 1.0),
                kind="ranking",
            )
        ledger.answer_many("ann", guideline, lambda seen: (3 if seen.shown[0] == 0 else -3, 1.0))
        ledger.release("v1")
        with ledger.reading() as connection:
            rows = list(exchange.ranking_rows(connection, project))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"{tmp_path / 'l.sqlite'}#v1", tmp_path


def config(source: str, out: Path, **changes: Any) -> RewardConfig:
    values = {
        "model": str(out / "tiny"),
        "data": source,
        "held_out": 0.0,
        "epochs": 3,
        "batch_size": 2,
        "lora": {"r": 4},
        "out": out,
    }
    return RewardConfig.model_validate(values | changes)


def test_plackett_luce_from_a_release_is_that_from_its_file(released: tuple[str, Path]) -> None:
    source, folder = released
    tiny_llama(seed=1).save_pretrained(folder / "tiny")
    tiny_tokenizer().save_pretrained(folder / "tiny")
    losses = [
        reward.run(config(data, folder / name, loss="plackett-luce", model=str(folder / "tiny")), QUIET)
        for data, name in ((source, "a"), (str(folder / "rows.jsonl"), "b"))
    ]
    assert losses[0]["held_out"] == losses[1]["held_out"] and losses[0]["comparisons"] == 3


def test_a_release_reads_as_rankings_and_a_pair_as_one_of_two(released: tuple[str, Path]) -> None:
    first, second = rankings(config(released[0], released[1], loss="plackett-luce"), QUIET)
    assert [
        dict(zip((first.group.completions[a].text for a in r.answers), r.ranks, strict=True))
        for r in first.said
    ] == [
        RANKS,
        RANKS,
    ]
    (pair,) = second.said
    assert [second.group.completions[a].text for a in pair.answers] == ["aaaa", "bbbb"] and pair.ranks == (
        1,
        2,
    )


def test_the_pairs_of_rankings_keep_their_weight_and_their_sides(released: tuple[str, Path]) -> None:
    first, second = read_compared(released[0], False, QUIET)
    texts = [c.text for c in first.group.completions]
    assert len(first.said) == 12 and {c.weight for c in first.said} == {1 / 3}
    for c in first.said:
        assert c.label == (0.5 if RANKS[texts[c.a]] == RANKS[texts[c.b]] else 1.0)
        assert RANKS[texts[c.a]] <= RANKS[texts[c.b]] and c.margin == 0.0
    with Ledger.open(released[0].partition("#")[0]) as ledger:
        shown = {
            j.rater: [ledger.completion(j.completion_ids[slot]).text for slot in j.shown]
            for j in ledger.judgements()
            if j.ranks
        }
    for c, scored in zip(first.said, scored_pairs(first, torch.arange(4.0)), strict=True):
        assert c.judgement is not None
        order = shown[c.judgement.rater]
        a_stood_first = order.index(texts[c.a]) < order.index(texts[c.b])
        assert scored.shown_first == (0 if a_stood_first else 1)
    assert [c.weight for c in second.said] == [1.0] and second.said[0].margin == 3.0
    ceiling = judges_ceiling([first, second])
    assert ceiling is None or ceiling.value == 1.0, "both raters gave the same order"


def test_labels_of_pairs_leave_rankings_their_weight(released: tuple[str, Path]) -> None:
    rows = [(row, Encoded((), ())) for row in read_compared(released[0], False, QUIET)]
    labelled = aggregated(rows, "majority", released[0], QUIET)
    assert [len(row.said) for row, _ in labelled] == [6, 1]
    assert {c.weight for c in labelled[0][0].said} == {1 / 3}
    assert [c.weight for c in labelled[1][0].said] == [1.0]
    path, _, release = released[0].partition("#")
    with Ledger.open(path) as ledger:
        told, note = aggregate_preferences(
            ledger.preferences(release), ledger.release_judgements(release), "majority"
        )
    assert note == "" and len(told) == 13 and [p.weight for p in told].count(1.0) == 1


def test_accord_quality_tells_of_rankings_apart(
    released: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = quality.measure(quality.read_facts(released[0]), n_boot=100)
    assert found["judgements"] == 1 and found["pairs"] == 1
    assert (found["rankings"]["n"], found["rankings"]["tau"]["value"]) == (2, pytest.approx(1.0))
    quality.print_text(found, Console(width=200))
    assert "2 rankings of 1 questions: Kendall's tau-b 1.00" in capsys.readouterr().out
