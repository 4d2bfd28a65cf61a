"""Questions for an order, from rows that were read from a file; and what the rows know of that order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from accord.ledger import known, projects, queue, rankings, store
from accord.ledger.known import Known
from accord.records import Group, Preference, Prompt, Question, content_hash


def as_rankings(rows: Sequence[Preference]) -> tuple[list[Group], list[tuple[int, str]]]:
    """The answers to each prompt as one group, and the lines of prompts that have too few or too many."""
    texts: dict[str, dict[str, None]] = {}
    prompts: dict[str, Prompt] = {}
    for row in rows:
        prompts.setdefault(row.prompt.id, row.prompt)
        texts.setdefault(row.prompt.id, {}).update(dict.fromkeys((row.chosen, row.rejected)))
    groups, problems = [], []
    for prompt_id, answered in texts.items():
        prompt = prompts[prompt_id]
        if rankings.FEWEST <= len(answered) <= rankings.MOST:
            groups.append(Group.of(prompt, *sorted(answered, key=content_hash)))
            continue
        takes = f"a ranking takes {rankings.FEWEST} to {rankings.MOST} different answers"
        problems.append((_line(prompt), f"{takes}, here are {len(answered)}"))
    return groups, problems


def _line(prompt: Prompt) -> int:
    line = prompt.source.rpartition(":")[2]
    return int(line) if line.isdigit() else 0


def add_rankings(
    connection: Connection,
    project_id: str,
    groups: Sequence[Group],
    *,
    overlap: int,
    reason: str,
    now: str,
    orders: Mapping[str, Known] | None = None,
) -> tuple[int, int]:
    """Ask for the order of each group's answers: how many questions are new, and how many were known.

    `orders`, by prompt and by the group's slots (`known_orders`), are kept to grade raters by.
    """
    asked = [Question(group, reason, kind="ranking", overlap=overlap) for group in groups]
    found = projects.add_questions(connection, project_id, asked, now)
    if orders:
        mine = set(projects.item_ids(connection, project_id))
        given = {queue.item_id_of(group): group for group in groups if orders.get(group.prompt.id)}
        stored = store.read_groups(connection, mine & given.keys())
        noted = {i: _by_text(orders[group.prompt.id], given[i], group) for i, group in stored.items()}
        known.set_orders(connection, noted, now)
    return found


def _by_text(order: Known, given: Group, there: Group) -> Known:
    """An order by the slots of one group, by those of another with the same texts."""
    slots = {completion.text: slot for slot, completion in enumerate(there.completions)}
    to = [slots[completion.text] for completion in given.completions]
    return tuple(sorted((to[high], to[low]) for high, low in order))


def known_orders(
    rows: Sequence[Preference], groups: Sequence[Group]
) -> tuple[dict[str, Known], list[tuple[int, str]]]:
    """What rows say of the order of each group, by prompt; and the lines of prompts where they contradict.

    A tie says nothing.
    """
    said: dict[str, set[tuple[str, str]]] = {}
    for row in rows:
        if not row.tie:
            said.setdefault(row.prompt.id, set()).add((row.chosen, row.rejected))
    orders, problems = dict[str, Known](), list[tuple[int, str]]()
    for group in groups:
        slots = {completion.text: slot for slot, completion in enumerate(group.completions)}
        pairs = [(slots[better], slots[worse]) for better, worse in said.get(group.prompt.id, ())]
        try:
            orders[group.prompt.id] = known.closed(pairs, len(slots))
        except rankings.WrongAnswerError:
            what = "asked, but no gold question: its rows contradict each other about which answer is better"
            problems.append((_line(group.prompt), what))
    return orders, problems
