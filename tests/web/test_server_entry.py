"""Coming in and being kept out: sign-in, sessions, invitations, the set-up link, throttles."""

from __future__ import annotations

from typing import Any

import pytest

from accord.ledger import accounts, tokens
from accord.ledger.database import utc_now
from accord.ledger.queue import later
from accord.web.app import set_up_url
from accord.web.auth import Site
from web.conftest import Visits
from web.world import ADDRESS, ORIGIN, PASSWORD, Visit, World

SESSION = ADDRESS.cookie("session")


def signed_in(visit: Visit) -> bool:
    return bool(visit.get("/account").status_code == 200)


# Sessions


def test_signing_in_gives_a_new_session_and_never_the_one_that_was_there(visit: Visits, world: World) -> None:
    browser = visit()
    browser.cookies[SESSION] = planted = "planted-by-somebody-else"
    assert browser.sign_in("rater").status_code == 303
    assert browser.cookies[SESSION] not in (planted, world.sessions["rater"])
    attacker = visit()
    attacker.cookies[SESSION] = planted
    assert signed_in(browser) and not signed_in(attacker)


def test_signing_in_again_ends_the_session_that_was_there(visit: Visits, world: World) -> None:
    browser = visit("rater")
    assert browser.post("/login", form={"login": "viewer", "password": PASSWORD}).status_code == 303
    assert not signed_in(visit("rater")) and signed_in(browser)
    assert browser.cookies[SESSION] != world.sessions["rater"]


def test_the_csrf_token_changes_with_the_session(visit: Visits) -> None:
    browser = visit()
    browser.get("/login")
    before = browser.csrf
    browser.sign_in("rater")
    assert browser.csrf != before


def test_signing_out_ends_the_session_on_the_server(visit: Visits) -> None:
    browser = visit("rater")
    assert browser.post("/logout").headers["location"] == "/login"
    assert SESSION not in browser.cookies
    assert not signed_in(visit("rater"))


@pytest.mark.parametrize("how", ["idle", "old"])
def test_sessions_end_by_themselves(visit: Visits, world: World, site: Site, how: str) -> None:
    from sqlalchemy import update

    from accord.ledger.team_schema import session

    seconds = accounts.IDLE_SECONDS if how == "idle" else accounts.LONGEST_SECONDS
    column = "last_seen_at" if how == "idle" else "created_at"
    with site.ledger.writing() as connection:
        connection.execute(update(session).values({column: later(utc_now(), 60 - seconds)}))
    assert signed_in(visit("rater"))
    with site.ledger.writing() as connection:
        connection.execute(update(session).values({column: later(utc_now(), -seconds)}))
    assert not signed_in(visit("rater"))


def test_a_new_password_ends_every_other_session_and_every_token(visit: Visits) -> None:
    elsewhere, here = visit(), visit("rater")
    elsewhere.sign_in("rater")
    body = {"old": PASSWORD, "new": "quite another password"}
    assert here.post("/api/v1/account/password", body).status_code == 200
    assert signed_in(here) and not signed_in(elsewhere)
    assert visit("rater", by="token").get("/api/v1/projects").status_code == 401
    assert visit().sign_in("rater").status_code == 401
    assert visit().sign_in("rater", "quite another password").status_code == 303


def test_a_stolen_session_can_neither_change_the_password_nor_make_a_token(visit: Visits) -> None:
    thief = visit("rater")
    wrong = {"old": "a wrong password", "new": "quite another password"}
    assert thief.post("/api/v1/account/password", wrong).status_code == 403
    made = thief.post("/api/v1/account/tokens", {"name": "x", "scopes": ["read"], "password": "a guess 123"})
    assert made.status_code == 403
    taken_back = thief.post("/api/v1/account/withdraw", {"scope": "all", "password": "a guess 123"})
    assert taken_back.status_code == 403
    assert signed_in(visit("rater"))


def test_one_session_or_all_others_can_be_ended(visit: Visits, world: World) -> None:
    here, there, third = visit("rater"), visit(), visit()
    there.sign_in("rater")
    third.sign_in("rater")
    text = here.get("/account").text
    ids = [part.split('"')[0] for part in text.split("DELETE /api/v1/account/sessions/")[1:]]
    assert len(ids) == 2
    assert visit("viewer").send("DELETE", f"/api/v1/account/sessions/{ids[0]}").status_code == 404
    assert here.send("DELETE", f"/api/v1/account/sessions/{ids[0]}").status_code == 200
    assert sorted((signed_in(there), signed_in(third))) == [False, True]
    assert here.send("DELETE", "/api/v1/account/sessions").json() == {"ended": 1}
    assert signed_in(here) and not signed_in(there) and not signed_in(third)


def test_a_disabled_account_is_out_at_once_and_can_come_back(visit: Visits, world: World) -> None:
    path = f"/api/v1/accounts/{world.accounts['rater']}/disable"
    assert visit("admin").post(path, {"disabled": True}).status_code == 200
    assert not signed_in(visit("rater"))
    assert visit("rater", by="token").get("/api/v1/projects").status_code == 401
    assert visit().sign_in("rater").status_code == 401
    assert visit("admin").post(path, {"disabled": False}).status_code == 200
    assert not signed_in(visit("rater")), "old sessions stay ended"
    assert visit().sign_in("rater").status_code == 303
    own = f"/api/v1/accounts/{world.accounts['admin']}/disable"
    assert visit("admin").post(own, {"disabled": True}).status_code == 409


def test_a_role_that_is_taken_away_is_gone_with_the_next_request(visit: Visits, world: World) -> None:
    mine, rater = world.mine, visit("rater")
    lease = f"/api/v1/projects/{mine.project}/lease"
    assert rater.post(lease, {}).status_code == 200
    member = f"/api/v1/projects/{mine.project}/members/{mine.member}"
    assert visit("owner").send("PATCH", member, json_body={"role": "viewer"}).status_code == 200
    assert rater.post(lease, {}).status_code == 403
    answer = {"strength": 1, "seconds": 1.0, "key": "0123456789"}
    path = f"/api/v1/assignments/{mine.assignment}/judgement"
    assert rater.post(path, answer).status_code == 403
    assert visit("owner").send("DELETE", member).status_code == 200
    assert rater.post(lease, {}).status_code == 404
    assert rater.post(path, answer).status_code == 404
    assert visit("rater", by="token").get(f"/api/v1/projects/{mine.project}/quality").status_code == 404


# Who may give which role


@pytest.mark.parametrize("role", ["owner", "manager"])
def test_managers_cannot_make_managers_or_touch_those_above_them(
    visit: Visits, world: World, role: str
) -> None:
    base, manager = f"/api/v1/projects/{world.mine.project}", visit("manager")
    assert manager.post(f"{base}/invitations", {"role": role}).status_code == 403
    raised = manager.send("PATCH", f"{base}/members/{world.mine.member}", json_body={"role": role})
    assert raised.status_code == 403
    above = f"{base}/members/{world.accounts[role]}"
    assert manager.send("PATCH", above, json_body={"role": "rater"}).status_code == 403
    assert manager.send("DELETE", above).status_code == 403
    assert visit("owner").post(f"{base}/invitations", {"role": role}).status_code == 200


def test_the_invitations_of_a_manager_end_with_the_role(visit: Visits, world: World) -> None:
    base = f"/api/v1/projects/{world.mine.project}"
    token = visit("manager").post(f"{base}/invitations", {"role": "rater"}).json()["url"].split("/")[-1]
    kept = visit("owner").post(f"{base}/invitations", {"role": "rater"}).json()["url"].split("/")[-1]
    assert visit().get(f"/invite/{token}").status_code == 200
    visit("owner").send("DELETE", f"{base}/members/{world.accounts['manager']}")
    assert visit().get(f"/invite/{token}").status_code == 404
    assert visit().get(f"/invite/{kept}").status_code == 200


# Throttles


def test_an_account_is_closed_for_a_while_after_five_wrong_passwords(
    visit: Visits, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    site.sign_ins_per_login.clock = site.sign_ins_per_address.clock = lambda: now[0]
    for _ in range(5):
        assert visit().sign_in("rater", "wrong password").status_code == 401
    refused = visit().sign_in("RATER ".strip())
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) == 900
    assert "try again in" in refused.text
    assert visit().sign_in("viewer").status_code == 303, "others may come in"
    now[0] = 901.0
    assert visit().sign_in("rater").status_code == 303


def test_an_address_is_closed_after_twenty_wrong_passwords_of_any_account(visit: Visits) -> None:
    for i in range(20):
        assert visit().sign_in(f"guess-{i}", "wrong password").status_code == 401
    assert visit().sign_in("rater").status_code == 429
    assert visit().get("/invite/x").status_code == 429


def test_good_sign_ins_do_not_pay_for_guesses(visit: Visits) -> None:
    """Whoever has one account could otherwise guess at others for ever."""
    for i in range(20):
        visit().sign_in(f"guess-{i}", "wrong password")
        if i % 3 == 0 and i < 19:
            assert visit().sign_in("viewer").status_code == 303
    assert visit().sign_in("viewer").status_code == 429


def test_writes_of_an_account_are_limited(visit: Visits, world: World, site: Site) -> None:
    site.writes_per_account.limit = 3
    path = f"/api/v1/projects/{world.mine.project}/lease"
    assert [visit("rater").post(path, {}).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert visit("rater", by="token").post(path, {}).status_code == 429, "a token is the same account"
    assert visit("adjudicator").post(path, {}).status_code == 200


def test_an_unknown_login_reads_like_a_wrong_password(visit: Visits) -> None:
    unknown = visit().sign_in("nobody-has-this", "wrong password")
    known = visit().sign_in("rater", "wrong password")
    assert unknown.status_code == known.status_code == 401
    assert unknown.text.replace("nobody-has-this", "rater").replace(unknown_csrf(unknown), "") == (
        known.text.replace(unknown_csrf(known), "")
    )


def unknown_csrf(response: Any) -> str:
    return str(response.text.split('name="csrf" content="')[1].split('"')[0])


@pytest.mark.parametrize(
    ("target", "goes"),
    [
        ("/projects", "/projects"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("https://evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/a\r\nSet-Cookie: x=y", "/"),
        ("", "/"),
    ],
)
def test_after_signing_in_nobody_is_led_elsewhere(visit: Visits, target: str, goes: str) -> None:
    form = {"login": "rater", "password": PASSWORD, "next": target}
    response = visit().post("/login", form=form)
    assert response.headers["location"] == goes
    assert "x" not in response.cookies


# Invitations and the set-up link


def invite(visit: Visits, world: World, role: str = "rater") -> str:
    reply = visit("owner").post(f"/api/v1/projects/{world.mine.project}/invitations", {"role": role})
    url = reply.json()["url"]
    assert url.startswith(f"{ORIGIN}/invite/")
    return str(url.removeprefix(ORIGIN))


NEW = {"login": "Zoë Ångström", "password": "correct horse battery"}


def test_an_invitation_lets_one_person_in_with_its_role(visit: Visits, world: World) -> None:
    path, guest = invite(visit, world, "viewer"), visit("new")
    assert "Mine" in guest.get(path).text
    entered = guest.post(path, form=NEW)
    assert entered.headers["location"] == f"/projects/{world.mine.project}"
    assert guest.get(f"/projects/{world.mine.project}/quality").status_code == 200
    assert guest.get(f"/projects/{world.mine.project}/people").status_code == 403
    second = visit()
    assert second.get(path).status_code == 404
    assert second.post(path, form={"login": "other", "password": NEW["password"]}).status_code == 404
    assert visit().sign_in("ZOË ÅNGSTRÖM", NEW["password"]).status_code == 303, "however it is typed"


def test_two_people_at_once_through_one_link_make_one_account(
    visit: Visits, world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second finds the link open on the page, and used when it matters."""
    path = invite(visit, world)
    hash_password = Site.hash_password
    inner: list[int] = []

    def meanwhile(self: Site, password: str) -> str:
        if not inner:
            inner.append(0)
            inner[0] = visit().post(path, form=NEW).status_code
        return hash_password(self, password)

    monkeypatch.setattr(Site, "hash_password", meanwhile)
    late = visit().post(path, form={"login": "late", "password": "another long password"})
    assert inner == [303]
    assert late.status_code == 409 and "quicker" in late.text
    assert visit().sign_in("late", "another long password").status_code == 401


def test_revoked_and_expired_invitations_are_shut(visit: Visits, world: World, site: Site) -> None:
    reply = (
        visit("owner").post(f"/api/v1/projects/{world.mine.project}/invitations", {"role": "rater"}).json()
    )
    path = reply["url"].removeprefix(ORIGIN)
    assert visit().get(path).status_code == 200
    revoke = f"/api/v1/projects/{world.mine.project}/invitations/{reply['id']}"
    assert visit("manager").send("DELETE", revoke).status_code == 200
    assert visit("manager").send("DELETE", revoke).status_code == 404
    assert visit().get(path).status_code == 404
    with site.ledger.writing() as connection:
        _, token, _ = accounts.invite(
            connection, world.mine.project, "rater", created_by=None, seconds=0, now=utc_now()
        )
    assert visit().get(f"/invite/{token}").status_code == 404
    assert visit().post(f"/invite/{token}", form=NEW).status_code == 404


def test_somebody_with_an_account_joins_with_it_and_once(visit: Visits, world: World) -> None:
    path, stranger = invite(visit, world), visit("stranger")
    assert "Join as" in stranger.get(path).text
    assert visit("rater").post(path).status_code == 409, "members leave the link for others"
    assert stranger.post(path).headers["location"] == f"/projects/{world.mine.project}"
    assert stranger.get(f"/projects/{world.mine.project}/judge").status_code == 200
    assert visit("outsider").post(path).status_code == 404


@pytest.mark.parametrize(
    ("form", "word"),
    [
        ({"login": "new", "password": "short"}, "10 to 200"),
        ({"login": "new", "password": "x" * 201}, "10 to 200"),
        ({"login": "", "password": PASSWORD}, "visible characters"),
        ({"login": " new", "password": PASSWORD}, "space"),
        ({"login": "a\u202eb", "password": PASSWORD}, "visible"),
        ({"login": "a\x00b", "password": PASSWORD}, "visible"),
        ({"login": "x" * 65, "password": PASSWORD}, "64"),
        ({"login": "RATER", "password": PASSWORD}, "taken"),
        ({"login": "ｒａｔｅｒ", "password": PASSWORD}, "taken"),
        ({"login": "x" * 1001, "password": PASSWORD}, "login"),
    ],
)
def test_a_form_that_is_refused_says_why_and_leaves_the_link_open(
    visit: Visits, world: World, form: dict[str, str], word: str
) -> None:
    path = invite(visit, world)
    response = visit().post(path, form=form)
    assert response.status_code == 422 and word in response.text
    assert visit().post(path, form=NEW).status_code == 303


def test_the_set_up_link_works_once_and_only_the_newest(world: World, visit: Visits, site: Site) -> None:
    assert set_up_url(site, ORIGIN) == "", "there is an administrator"
    old = set_up_url(site, ORIGIN, again=True).removeprefix(ORIGIN)
    new = set_up_url(site, ORIGIN, again=True).removeprefix(ORIGIN)
    assert visit().get(old).status_code == 404
    guest = visit("new")
    assert guest.get(new).status_code == 200
    assert guest.post(new, form={"login": "root", "password": "short"}).status_code == 422
    assert guest.post(new, form={"login": "root", "password": PASSWORD}).headers["location"] == "/projects"
    assert guest.post("/api/v1/projects", {"name": "P", "guideline": "g"}).status_code == 200
    assert visit().get(new).status_code == 404
    assert visit().post(new, form={"login": "root2", "password": PASSWORD}).status_code == 404


def test_set_up_and_invitation_links_do_not_open_each_other(visit: Visits, world: World, site: Site) -> None:
    admin = set_up_url(site, ORIGIN, again=True).rpartition("/")[2]
    rater = invite(visit, world).rpartition("/")[2]
    assert visit().get(f"/invite/{admin}").status_code == 404
    assert visit().get(f"/setup/{rater}").status_code == 404
    assert visit().post(f"/setup/{rater}", form=NEW).status_code == 404
    assert visit().post(f"/invite/{admin}", form=NEW).status_code == 404


def test_links_and_tokens_stand_nowhere_in_the_file(visit: Visits, world: World, site: Site) -> None:
    secrets = [
        invite(visit, world).rpartition("/")[2],
        set_up_url(site, ORIGIN, again=True).rpartition("/")[2],
    ]
    body = {"name": "x", "scopes": ["read"], "password": PASSWORD}
    secrets.append(visit("rater").post("/api/v1/account/tokens", body).json()["token"])
    browser = visit()
    browser.sign_in("rater")
    secrets += [browser.cookies[SESSION], PASSWORD]
    site.ledger.compact()
    path = site.ledger._database.engine.url.database
    assert path is not None
    with open(path, "rb") as file:
        stored = file.read()
    assert tokens.token_sha256(secrets[2]).encode() in stored
    assert not [secret for secret in secrets if secret.encode() in stored]
