"""A question before a rater, with and without its texts."""

from __future__ import annotations

from dataclasses import dataclass

from accord.records import Completion, Group, Purpose, RaterKind


@dataclass(frozen=True)
class Rater:
    id: str
    pseudonym: str
    kind: RaterKind


@dataclass(frozen=True)
class Assignment:
    """One item put before one rater.

    `group` has its completions in canonical slots; `shown` lists the slot at each displayed position, left
    first. `rater` is the pseudonym.
    """

    id: str
    item_id: str
    rater: str
    group: Group
    shown: tuple[int, ...]
    guideline: str
    purpose: Purpose = "judge"

    @property
    def prompt_id(self) -> str:
        return self.group.prompt.id

    @property
    def completion_ids(self) -> tuple[str, ...]:
        return tuple(c.id for c in self.group.completions)

    @property
    def left(self) -> Completion:
        return self.group.completions[self.shown[0]]

    @property
    def right(self) -> Completion:
        return self.group.completions[self.shown[1]]


@dataclass(frozen=True)
class Place:
    """An assignment without its texts: enough to answer it."""

    id: str
    item_id: str
    prompt_id: str
    completion_ids: tuple[str, ...]  # in canonical slots
    shown: tuple[int, ...]
    guideline: str
    purpose: Purpose


@dataclass(frozen=True)
class Wanted:
    """An item to put before a rater: why, and the order (slot by position) that must not be drawn again."""

    item_id: str
    purpose: Purpose = "judge"
    unlike: tuple[int, ...] | None = None
