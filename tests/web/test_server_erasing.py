"""Erasing at somebody's request over the API: who may, what goes, and what the pages say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accord.ledger import media
from accord.ledger.database import utc_now
from accord.ledger.media import Medium
from accord.web.auth import Site
from web.conftest import Visits
from web.media_files import png
from web.world import PASSWORD, REASON, World


def erase(visit: Visits, world: World, who: str = "manager", **what: str) -> Any:
    path = f"/api/v1/projects/{world.mine.project}/erasures"
    return visit(who).post(path, {"password": PASSWORD} | what)


def held(folder: Path, word: str) -> bool:
    return any(word.encode() in file.read_bytes() for file in folder.glob("ledger.sqlite*"))


def test_one_question_goes_and_its_page_says_so(
    visit: Visits, world: World, site: Site, tmp_path: Path
) -> None:
    page = f"/projects/{world.mine.project}/judgements/{world.mine.judgement}"
    assert "Erase this question" in visit("manager").get(page).text
    assert held(tmp_path, "Mine right 0") and held(tmp_path, "Mine right 2")
    done = erase(visit, world, judgement=world.mine.judgement)
    assert done.json() == {"questions": 1, "judgements": 1, "media": 0, "kept": 0}, done.text
    assert not held(tmp_path, "Mine right 0") and held(tmp_path, "Mine right 2")
    assert "Its texts were erased" in visit("manager").get(page).text
    assert site.ledger.verify().problems == ()
    for where in ("data", "quality", "judgements", "withdrawals"):
        assert visit("manager").get(f"/projects/{world.mine.project}/{where}").status_code == 200
    assert visit("rater").get(f"/projects/{world.mine.project}/mine").status_code == 200
    assert "So far 1 question was erased" in visit("manager").get(
        f"/projects/{world.mine.project}/withdrawals"
    ).text.replace("\n", " ")


def test_a_whole_import_goes_and_not_another_project(
    visit: Visits, world: World, site: Site, tmp_path: Path
) -> None:
    assert erase(visit, world, reason=REASON).json()["questions"] == 6
    assert not held(tmp_path, "Mine right") and held(tmp_path, "Theirs right")
    reply = visit("rater").post(f"/api/v1/projects/{world.mine.project}/lease", {"want": 2}).json()
    assert reply["questions"] == [] and reply["progress"]["left"] == 0
    path = f"/api/v1/assignments/{world.mine.assignment}/judgement"
    late = visit("rater").post(path, {"strength": 1, "seconds": 1, "key": "0123456789"})
    assert late.status_code == 409 and "erased" in late.text
    assert site.ledger.verify().problems == ()


def test_a_talk_goes_as_a_whole(visit: Visits, world: World, site: Site, tmp_path: Path) -> None:
    path = f"/api/v1/talks/{world.mine.talk}/turns"
    said = ("My very own words", "Some more of mine")
    for n, words in enumerate(said):
        question = visit("rater").post(path, {"text": words, "key": f"key-number-{n}"}).json()
        body = {"strength": 2, "seconds": 1.0, "key": f"answer-{n}-0123"}
        judged = visit("rater").post(f"/api/v1/assignments/{question['assignment']}/judgement", body)
    assert erase(visit, world, judgement=judged.json()["judgement"]).json()["questions"] == 2
    assert not any(held(tmp_path, words) for words in said)
    assert visit("rater").get(f"/api/v1/talks/{world.mine.talk}").status_code == 404
    assert site.ledger.verify().problems == ()


def test_a_file_goes(visit: Visits, world: World, site: Site) -> None:
    photo = Medium("image/png", png())
    with site.ledger.writing() as connection:
        media.add_media(connection, world.mine.project, [photo], utc_now())
    where = f"/projects/{world.mine.project}/media/{photo.id}"
    assert visit("rater").get(where).status_code == 200
    assert erase(visit, world, medium=photo.id).json() == {
        "questions": 0, "judgements": 0, "media": 1, "kept": 0,
    }  # fmt: skip
    assert visit("rater").get(where).status_code == 404
    assert erase(visit, world, medium=photo.id).status_code == 404


def test_a_password_and_one_thing_of_this_project_are_needed(visit: Visits, world: World) -> None:
    assert erase(visit, world, reason=REASON, password="wrong").status_code == 403
    assert erase(visit, world).status_code == 422
    assert erase(visit, world, reason=REASON, medium="0" * 64).status_code == 422
    assert erase(visit, world, judgement=world.theirs.judgement).status_code == 404
    assert erase(visit, world, who="rater", reason=REASON).status_code == 403
    assert visit("manager", by="token").post(
        f"/api/v1/projects/{world.mine.project}/erasures", {"reason": REASON, "password": PASSWORD}
    ).status_code in (401, 403)
