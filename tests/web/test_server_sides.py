"""That it never matters on which side an answer stood."""

from __future__ import annotations

import json
import random

from sqlalchemy import select

from accord.ledger import answers, judging, queue
from accord.ledger.answers import Beside
from accord.ledger.schema import assignment, judgement
from accord.web.auth import Site
from web.conftest import Visits
from web.world import World


def test_sides_are_drawn_anew_for_everybody(site: Site, world: World) -> None:
    """Neither the order of the slots nor the assignment's id tells what stands left."""
    drawn = [queue.sides(seed, 2) for seed in range(2000)]
    assert 900 < drawn.count((0, 1)) < 1100
    with site.ledger.reading() as connection:
        rows = connection.execute(select(assignment.c.shown_seed)).scalars().all()
    assert len(set(rows)) == len(rows)


def test_the_same_preferred_text_gives_the_same_row_on_whichever_side_it_stood(
    world: World, site: Site
) -> None:
    """10,000 random presentations and answers, through the functions that the route calls."""
    draw = random.Random(7)
    with site.ledger.reading() as connection:
        held, _, _ = queue.find_assignment(connection, world.mine.assignment)
    seen = set()
    for _ in range(10_000):
        shown = queue.sides(draw.getrandbits(60), 2)
        preferred, grade = draw.randrange(2), draw.randint(0, 3)  # in slots: what the rater means
        flags = {slot: [f for f in ("false", "unsafe") if draw.random() < 0.5] for slot in (0, 1)}
        stars = {slot: draw.choice([None, 1, 5]) for slot in (0, 1)}
        better = draw.randrange(2)
        left_is = shown[0]
        strength = grade if preferred == left_is else -grade  # what she presses
        said = Beside(
            flags=tuple(tuple(flags[slot]) for slot in shown),
            ratings={"helpful": tuple(stars[slot] for slot in shown)},
            edit=(shown.index(better), "text"),
        )
        parts = answers.to_parts(said, shown)
        row = judging.canonical_strength(strength, shown)
        assert row == (grade if preferred == 0 else -grade)
        assert {(p.key, p.slot, p.number, p.body) for p in parts} == {
            *((f"flag:{flag}", slot, 1, None) for slot in (0, 1) for flag in flags[slot]),
            *(("rating:helpful", slot, n, None) for slot, n in stars.items() if n is not None),
            ("edit", better, None, "text"),
        }
        back = answers.from_parts(parts, shown)
        assert (back.flags, back.edit) == (said.flags, said.edit)
        if any(stars.values()):
            assert back.ratings == said.ratings
        seen.add((shown, preferred, grade))
    assert len(seen) == 16 and held.shown in {(0, 1), (1, 0)}


def test_sides_through_the_whole_app(visit: Visits, world: World, site: Site) -> None:
    """Everybody prefers the right sum wherever it stands: every stored row says slot 0."""
    lease, n = f"/api/v1/projects/{world.mine.project}/lease", 0
    for who in ("owner", "manager", "adjudicator"):
        member = visit(who)
        while questions := member.post(lease, {"want": 5}).json()["questions"]:
            for question in questions:
                good = ["right" in shown["text"] for shown in question["answers"]].index(True)
                flags = [[] if i == good else ["false"] for i in (0, 1)]
                edit = {"position": good, "text": "as it should be"}
                body = {"strength": 2 if good == 0 else -2, "seconds": 1.0, "flags": flags, "edit": edit}
                path, n = f"/api/v1/assignments/{question['assignment']}/judgement", n + 1
                assert member.post(path, body | {"key": f"key-{n:06}"}).status_code == 200
    with site.ledger.reading() as connection:
        rows = judging.read_judgements(connection, item_ids=world.mine.items)
        said = answers.read_answers(connection, [row.id for row in rows])
        new = [row for row in rows if row.id != world.mine.judgement]
        times = connection.execute(select(judgement.c.submitted_at)).scalars().all()
    assert {row.shown for row in new} == {(0, 1), (1, 0)} and len(new) == 10 and len(times) == 12
    assert {row.strength for row in new} == {2}
    for row in new:
        assert {(part.key, part.slot) for part in said[row.id]} == {("flag:false", 1), ("edit", 0)}
    exported = visit("owner").get(f"/api/v1/projects/{world.mine.project}/export/preferences.jsonl").text
    chosen = [json.loads(line)["chosen"][0]["content"] for line in exported.splitlines()]
    assert sum("right" in text for text in chosen) >= 10
