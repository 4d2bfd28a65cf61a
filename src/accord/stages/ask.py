"""Put pairs of answers to raters, through the ledger: simulated ones, you at the terminal, or people."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rich.columns import Columns
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.prompt import Prompt as Ask

from accord.config import AskConfig
from accord.data.groups import read_groups
from accord.errors import ConfigError, DataError, LedgerError
from accord.feedback.agreement import Rating, agreement, ceiling
from accord.feedback.labels import aggregate_preferences
from accord.feedback.panel import SimulatedRater, judgement_rng, make_panel
from accord.ledger.ledger import Assignment, Ledger
from accord.ledger.lineage import Release, find_release
from accord.records import Completion, Group, Judgement, Preference, Prompt, Question
from accord.scenarios import guideline_for, known_prompts, load_scenario
from accord.scenarios.shop import Scenario
from accord.stages import people
from accord.training.checkpoint import write_atomically

# A person's keys: displayed strength, positive for the left answer.
KEYS = {"1": 2, "2": -2, "t": 0}


def run(
    config: AskConfig,
    console: Console,
    *,
    priority: int = 0,
    tell: people.Tell = lambda waiting: None,
) -> dict[str, Any]:
    """Ask, make the release, and return what the raters' answers look like.

    With people it returns when they have answered; `tell` hears how far they are, and of their open
    questions those of a higher `priority` come first.
    """
    groups = read_groups(Path(config.samples))
    scenario = load_scenario(config.scenario)
    told = guideline_for(config.guideline, scenario, (g.prompt for g in groups))
    asked = questions(groups, config)
    with Ledger.open(config.ledger) as ledger:
        guideline = ledger.add_guideline(told)
        for version in sorted({c.policy_version for g in groups for c in g.completions if c.policy_version}):
            ledger.add_policy(version, base_model=version.partition("@")[0])
        if config.raters == "people":
            project = people.open_project(ledger, config.project, told)
            items = people.put_questions(ledger, project, asked, priority=priority)
            people.wait_for(ledger, config.ledger, config.project, items, config.wait, console, tell)
        else:
            items = ledger.ask(asked)
        if config.raters == "panel":
            raters = make_panel(config.panel_size, scenario.base_weights, seed=config.seed)
            ask_panel(ledger, raters, scenario, guideline, config.seed, console)
        elif config.raters == "me":
            ask_person(ledger, guideline, told, console)
        release = make_release(ledger, config, console)
        judgements = ledger.release_judgements(release.name)
        if config.out is not None:
            said = labelled(ledger, release.name, config)
            rows = (json.dumps(p.to_row(), ensure_ascii=False) for p in said)
            write_atomically(config.out, "".join(row + "\n" for row in rows))
    return {
        "ledger": config.ledger,
        "release": release.name,
        "release_hash": release.hash,
        "items": len(items),
        "judgements": len(judgements),
        "raters": sorted({j.rater for j in judgements}),
        "simulated": all(j.rater_kind == "simulated" for j in judgements),
        **summarise(judgements),
    }


def make_release(ledger: Ledger, config: AskConfig, console: Console) -> Release:
    """Freeze what was said, but for what measures policies. People may go on answering after a release was
    made, so that asking again for the same one (after an interruption) gives it as it is."""
    name = config.release or datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    if config.raters == "people":
        with ledger.reading() as connection:
            try:
                found = find_release(connection, name)
            except LedgerError:
                found = None
        if found is not None:
            console.print(f"release {name!r} exists and never changes; later answers go into the next one")
            return found
    return ledger.release(name, item_ids=people.for_training(ledger))


def labelled(ledger: Ledger, release: str, config: AskConfig) -> Sequence[Preference]:
    """The release's preferences: one a judgement, or one a pair."""
    said = ledger.preferences(release)
    if config.aggregate == "none":
        return said
    return aggregate_preferences(said, ledger.release_judgements(release), config.aggregate)[0]


def questions(groups: Sequence[Group], config: AskConfig) -> list[Question]:
    """Pairs (or rankings) of each prompt's answers, in a seeded order; some are wanted from three raters, so
    that their agreement can be measured. Equal texts are not a question."""
    if config.ranking and config.raters != "people":
        raise ConfigError("ask.ranking is for people: simulated raters and you at the terminal compare pairs")
    rng = random.Random(config.seed)
    kind: Literal["pair", "ranking"] = "ranking" if config.ranking else "pair"
    found = []
    for group in groups:
        for answers in _ranking(group, config.ranking, rng) if config.ranking else _pairs(group, config, rng):
            shared = rng.random() < config.overlap_share
            overlap = max(config.overlap, 3) if shared and config.raters != "me" else config.overlap
            reason = "agreement check" if shared else f"random {kind} of the policy's answers"
            found.append(Question(Group(group.prompt, answers), reason, kind, overlap))
    if not found and config.ranking:
        raise DataError(
            f"no prompt has {config.ranking} different answers to put in order; sample with a larger k, or "
            "lower ask.ranking"
        )
    if not found:
        raise DataError(
            "no pair of different answers to ask about; sample with k >= 2 and a higher temperature"
        )
    rng.shuffle(found)
    return found[: config.limit]


def _pairs(group: Group, config: AskConfig, rng: random.Random) -> list[tuple[Completion, ...]]:
    both = itertools.combinations(group.completions, 2)
    pairs = [(a, b) for a, b in both if a.text.strip() and b.text.strip() and a.text != b.text]
    rng.shuffle(pairs)
    return list(pairs[: config.pairs_per_prompt])


def _ranking(group: Group, k: int, rng: random.Random) -> list[tuple[Completion, ...]]:
    """k of the prompt's different answers; none where it has fewer."""
    different = list({c.text: c for c in group.completions if c.text.strip()}.values())
    return [tuple(rng.sample(different, k))] if len(different) >= k else []


def ask_panel(
    ledger: Ledger,
    raters: Sequence[SimulatedRater],
    scenario: Scenario,
    guideline: str,
    seed: int,
    console: Console,
) -> None:
    """Every simulated rater answers what the queue hands out, in turns, until nothing is open."""
    known = known_prompts(scenario)
    names = {ledger.add_rater(rater.name, "simulated"): rater for rater in raters}
    console.print(f"[dim]{len(raters)} simulated raters (no people) answer by the {scenario.name} rubric")

    def answer_as(rater: SimulatedRater) -> Callable[[Assignment], tuple[int, float]]:
        def answer(assignment: Assignment) -> tuple[int, float]:
            prompt = known_prompt(assignment.group.prompt, known, scenario.name)
            rng = judgement_rng(rater.name, assignment.item_id, seed)
            left, right = (scenario.traits(prompt, c) for c in (assignment.left, assignment.right))
            return rater.judge(left, right, rng)

        return answer

    answered = True
    while answered:
        answered = False
        for identity, rater in names.items():
            answered |= bool(ledger.answer_many(identity, guideline, answer_as(rater), limit=25, seed=seed))


def known_prompt(prompt: Prompt, known: dict[str, Prompt], scenario: str) -> Prompt:
    if prompt.id not in known:
        raise DataError(
            f"the simulated raters can only judge the prompts of scenario {scenario!r}, not "
            f"{prompt.messages[-1].content[:60]!r}; let people judge: --raters me, or people"
        )
    return known[prompt.id]


def ask_person(ledger: Ledger, guideline: str, guideline_text: str, console: Console) -> None:
    """Pairs at the terminal: 1 or 2 for the better one, t for a tie, s to skip, q to stop for now."""
    me = ledger.add_rater("me", "human")
    console.print(Panel(escape(guideline_text.strip()), title="Guideline"))
    done = 0
    while (assignment := ledger.lease(me, guideline)) is not None:
        console.rule(f"question {done + 1}")
        for message in assignment.group.prompt.messages:
            console.print(f"[bold]{escape(message.role)}:[/bold] {safe(message.content)}")
        console.print(
            Columns([_card("1", assignment.left), _card("2", assignment.right)], equal=True, expand=True)
        )
        began = time.monotonic()
        key = Ask.ask("Which is better?", choices=["1", "2", "t", "s", "q"], console=console)
        if key == "q":
            ledger.skip(assignment.id, "stopped for now")
            return
        if key == "s":
            ledger.skip(assignment.id, "skipped by the rater")
            continue
        ledger.submit(assignment.id, KEYS[key], seconds=time.monotonic() - began)
        done += 1
    console.print(f"No more questions; {done} answered. Thank you.")


def _card(title: str, completion: Completion) -> Panel:
    return Panel(safe(completion.text), title=title)


def safe(text: str) -> str:
    """Model output is hostile text: no markup, no terminal control characters."""
    return escape("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text))


def summarise(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Agreement of the raters: ordinal alpha on strengths, raw agreement on who won, and the ceiling."""
    judgements = [j for j in judgements if not j.ranks and j.purpose == "judge"]  # of pairs
    ratings = [Rating(j.item_id, j.rater, float(j.strength)) for j in judgements]
    winners = [Rating(j.item_id, j.rater, str((j.strength > 0) - (j.strength < 0))) for j in judgements]
    who_won = agreement(winners, level="nominal")
    return {
        "agreement": {
            **agreement(ratings, level="ordinal").to_json(),
            "raw": who_won.raw,
            "raw_low": who_won.raw_low,
            "raw_high": who_won.raw_high,
            "alpha_winner": who_won.alpha,
        },
        "ceiling": ceiling(judgements).to_json(),
        "ties": sum(j.strength == 0 for j in judgements) / max(len(judgements), 1),
    }
