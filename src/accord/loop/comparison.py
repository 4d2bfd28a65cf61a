"""Old and new policy compared by people: the same held-out questions, in a project of the annotation app."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from accord.errors import DataError
from accord.evaluation.winrate import win_rate
from accord.ledger.ledger import Ledger
from accord.records import Completion, Group, Judgement, Message, Prompt, Question
from accord.stages import people

PROJECT = "evaluation"


@dataclass(frozen=True)
class Compared:
    """The two answers to one held-out question; the first of the group is the new policy's."""

    group: Group

    @property
    def same(self) -> bool:
        """Answers with the same text need nobody: a tie."""
        before, after = (c.text.strip() for c in self.group.completions)
        return before == after


def compare(
    transcripts: Path,
    ledger_path: str,
    *,
    guideline: str,
    members_of: str,
    seed: int,
    console: Console,
    tell: people.Tell = lambda waiting: None,
) -> dict[str, Any]:
    """Let one person judge each pair, and return the win rate of the new policy with its interval.

    Sides are random and no names are shown. Pairs with the same text count as ties. Members of the project
    called `members_of` may judge here too. Raises InterruptedRunError after Ctrl-C.
    """
    pairs = read_pairs(transcripts)
    asked = [pair for pair in pairs if not pair.same]
    with Ledger.open(ledger_path) as ledger:
        for version in sorted({c.policy_version for p in asked for c in p.group.completions}):
            ledger.add_policy(version, base_model=version.partition("@")[0])
        with ledger.reading() as connection:
            others = people.find_project(connection, members_of)
        project = people.open_project(ledger, PROJECT, guideline, members_of=others)
        questions = [Question(pair.group, people.EVALUATION) for pair in asked]
        items = people.put_questions(ledger, project, questions)
        if items:
            people.wait_for(ledger, ledger_path, PROJECT, items, "all", console, tell)
        judgements = ledger.judgements(item_ids=items)
    return {
        **outcome(pairs, judgements, seed),
        "judgements": len(judgements),
        "raters": sorted({judged.rater for judged in judgements}),
        "same_text": len(pairs) - len(asked),
    }


def read_pairs(path: Path) -> list[Compared]:
    """From the transcripts that `accord eval` wrote. Raises DataError for anything else."""
    try:
        return _pairs(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not the transcripts of two policies ({type(error).__name__}: {error}); `accord eval` "
            "writes them, as transcripts.json"
        ) from error


def _pairs(rows: Sequence[dict[str, Any]]) -> list[Compared]:
    pairs = []
    for row in rows:
        prompt = Prompt(tuple(Message(m["role"], m["content"]) for m in row["messages"]))
        answers = [
            Completion(prompt.id, row[when], policy_version=row[f"policy_{when}"], index=index)
            for index, when in enumerate(("after", "before"))
        ]
        pairs.append(Compared(Group(prompt, tuple(answers))))
    return pairs


def outcome(pairs: Sequence[Compared], judgements: Sequence[Judgement], seed: int) -> dict[str, Any]:
    """Share of comparisons that the new policy wins, ties half, with an interval over questions."""
    new = {pair.group.completions[0].id for pair in pairs}
    outcomes = [0.5 for pair in pairs if pair.same]
    clusters = [pair.group.prompt.id for pair in pairs if pair.same]
    for judged in judgements:
        slot = next((s for s, c in enumerate(judged.completion_ids) if c in new), None)
        if slot is None:
            raise DataError(f"judgement {judged.id} is about other answers than those that were compared")
        towards = judged.strength if slot == 0 else -judged.strength
        outcomes.append(0.5 + 0.5 * ((towards > 0) - (towards < 0)))
        clusters.append(judged.prompt_id)
    found = win_rate(outcomes, clusters, seed=seed)
    return {"win_rate_vs_sft": found.value, "low": found.low, "high": found.high, "n": found.n}
