"""What was said of each prompt's answers, for the methods that learn from it without sampling.

Two shapes: pairs (this answer was preferred to that one) and verdicts (this answer is good, or bad). Data of
another shape (rankings, too) are converted where that loses nothing that the method needs, and it is said.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal, Protocol, TypeVar

from rich.console import Console

from accord.data import containers
from accord.data.datasets import Unpaired, load_preferences, load_unpaired
from accord.data.formats import UNPAIRED
from accord.data.graded import RANKINGS, Graded, load_rankings
from accord.data.render import Encoded
from accord.errors import DataError
from accord.ledger.ledger import Ledger
from accord.records import Group, Preference, Prompt
from accord.stages.common import announce


@dataclass(frozen=True)
class Pair:
    """One of a prompt's answers was preferred to another; both are named by their places in the group."""

    chosen: int
    rejected: int
    margin: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True)
class Verdict:
    """One of a prompt's answers was found good or bad."""

    answer: int
    good: bool
    weight: float = 1.0


class Weighted(Protocol):
    """Anything that was said of a prompt's answers."""

    @property
    def weight(self) -> float: ...


Said = TypeVar("Said", bound=Weighted)


@dataclass(frozen=True)
class Judged(Generic[Said]):
    """A prompt's answers, each text once, and everything that was said of them."""

    group: Group
    said: tuple[Said, ...]

    @property
    def weight(self) -> float:
        return sum(s.weight for s in self.said)


def read_pairs(source: str, strict: bool, console: Console) -> list[Judged[Pair]]:
    """Preferences of a file, a hub name or LEDGER#RELEASE; ties say nothing here and are left out.

    Of single answers with a verdict, each good one is paired with each bad one of the same prompt; of a
    ranking, each answer with each lower one. Raises DataError when that leaves no pair.
    """
    shape = _shape(source)
    if shape == "rankings":
        return _ranked_pairs(source, strict, console)
    if shape == "preferences":
        return pairs_of(_decided(source, strict, console))
    loaded = load_unpaired(source, strict=strict)
    announce(loaded, "unpaired", console)
    pairs = crossed(loaded.rows)
    if not pairs:
        raise DataError(
            f"{source}: single answers, and no prompt has both a good and a bad one, so nothing can be "
            "compared; use `accord kto`, which learns from single answers, or give preferences"
        )
    made, prompts = sum(len(row.said) for row in pairs), len({row.prompt.id for row in loaded.rows})
    _say(
        console,
        f"{source}: single answers; each good one is paired with each bad one of its prompt: "
        f"{made:,} pairs, {prompts - len(pairs):,} of {prompts:,} prompts lack one kind and are left out",
    )
    return pairs


def read_verdicts(source: str, strict: bool, console: Console) -> list[Judged[Verdict]]:
    """Single answers with a verdict; of preferences, the chosen answer counts as good, the other as bad.

    Raises DataError for rankings, which do not say where good ends.
    """
    shape = _shape(source)
    if shape == "rankings":
        raise DataError(
            f"{source}: rankings do not say which answers are good, and KTO wants that; use `accord dpo`, "
            "which pairs them, or give single answers with a label"
        )
    if shape == "verdicts":
        loaded = load_unpaired(source, strict=strict)
        announce(loaded, "unpaired", console)
        return verdicts_of(loaded.rows)
    preferences = _decided(source, strict, console)
    _say(console, f"{source}: preferences; each chosen answer counts as good, each rejected one as bad")
    return verdicts_of(
        Unpaired(p.prompt, text, good, p.weight)
        for p in preferences
        for text, good in ((p.chosen, True), (p.rejected, False))
    )


def pairs_of(preferences: Iterable[Preference]) -> list[Judged[Pair]]:
    """One row for each prompt, whatever order its preferences came in; equal texts are one answer."""
    return gather(
        (p.prompt, (p.chosen, p.rejected), partial(Pair, margin=p.margin, weight=p.weight))
        for p in preferences
    )


def verdicts_of(answers: Iterable[Unpaired]) -> list[Judged[Verdict]]:
    """The same of single answers. One that was judged twice counts twice."""
    return gather(
        (a.prompt, (a.completion,), partial(Verdict, good=a.label, weight=a.weight)) for a in answers
    )


def crossed(answers: Sequence[Unpaired]) -> list[Judged[Pair]]:
    """Every good answer against every bad one of the same prompt, weighing the product of their weights."""
    bad: dict[str, list[Unpaired]] = {}
    for a in answers:
        bad.setdefault(a.prompt.id, []).extend([] if a.label else [a])
    return gather(
        (a.prompt, (a.completion, b.completion), partial(Pair, weight=a.weight * b.weight))
        for a in answers
        if a.label
        for b in bad[a.prompt.id]
        if a.completion != b.completion
    )


def ranked(rankings: Iterable[Graded]) -> list[Judged[Pair]]:
    """Every answer of a ranking against every lower one; a ranking's pairs together weigh what it does."""
    said = []
    for r in rankings:
        places = range(len(r.grades))
        decided = [(a, b) for a in places for b in places if r.grades[a] < r.grades[b]]
        for a, b in decided:
            pair = partial(Pair, weight=r.weight / len(decided))
            said.append((r.prompt, (r.completions[a], r.completions[b]), pair))
    return gather(said)


def split_by_prompt(
    rows: Sequence[tuple[Judged[Said], Encoded]], share: float, seed: int
) -> tuple[list[tuple[Judged[Said], Encoded]], list[tuple[Judged[Said], Encoded]]]:
    """(train, held out). By prompt, so that no answer is seen in both; the order of the rows is no matter."""
    shuffled = sorted(rows, key=lambda row: row[0].group.prompt.id)
    random.Random(seed).shuffle(shuffled)
    n = round(share * len(shuffled))
    return shuffled[n:], shuffled[:n]


def gather(said: Iterable[tuple[Prompt, Sequence[str], Callable[..., Said]]]) -> list[Judged[Said]]:
    """One row for each prompt, with all that was said of its answers; each text is one answer.

    A thing said is (prompt, the texts it is about, what makes it of their places among the answers).
    """
    prompts: dict[str, Prompt] = {}
    places: dict[str, dict[str, int]] = {}  # of each text among its prompt's answers
    found: dict[str, list[Said]] = {}
    for prompt, texts, make in said:
        prompts.setdefault(prompt.id, prompt)
        known = places.setdefault(prompt.id, {})
        indices = [known.setdefault(text, len(known)) for text in texts]
        found.setdefault(prompt.id, []).append(make(*indices))
    return [Judged(Group.of(prompts[i], *places[i]), tuple(found[i])) for i in prompts]


def in_ledger(source: str) -> tuple[str, str] | None:
    """(ledger, release) of LEDGER#RELEASE; None for any other source."""
    path, hash_sign, release = source.rpartition("#")
    return (path, release) if hash_sign and path else None


def _decided(source: str, strict: bool, console: Console) -> list[Preference]:
    if found := in_ledger(source):
        with Ledger.open(found[0], create=False) as ledger:
            preferences: Sequence[Preference] = ledger.preferences(found[1])
    else:
        loaded = load_preferences(source, strict=strict)
        announce(loaded, "preferences", console)
        preferences = loaded.rows
    decided = [p for p in preferences if not p.tie]
    if not decided:
        raise DataError(f"{source}: all {len(preferences):,} preferences are ties; give some that decide")
    if ties := len(preferences) - len(decided):
        what = "1 tie, which prefers" if ties == 1 else f"{ties:,} ties, which prefer"
        _say(console, f"{source}: left out {what} neither answer")
    return decided


def _ranked_pairs(source: str, strict: bool, console: Console) -> list[Judged[Pair]]:
    loaded = load_rankings(source, strict=strict)
    announce(loaded, "rankings", console)
    pairs = ranked(loaded.rows)
    if not pairs:
        raise DataError(f"{source}: all answers of all rankings are tied; give some that decide")
    made = sum(len(row.said) for row in pairs)
    _say(console, f"{source}: rankings; each answer is paired with each lower one: {made:,} pairs")
    return pairs


def _shape(source: str) -> Literal["preferences", "verdicts", "rankings"]:
    """What the rows are, judging by the first that can be read; preferences where that is unknown."""
    if in_ledger(source):
        return "preferences"  # a ledger's release holds comparisons
    for _, records in containers.read(source, "train"):
        for record in records:
            if isinstance(record, containers.Row):
                columns = set(record.values)
                if columns >= {"chosen", "rejected"}:
                    return "preferences"
                if any(columns.issuperset(needed) for needed in RANKINGS.values()):
                    return "rankings"
                return "verdicts" if columns.issuperset(UNPAIRED["unpaired"]) else "preferences"
    return "preferences"


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
