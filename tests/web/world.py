"""A small world in a ledger: two projects, an account of every role, a judgement and a lease in each project.

Built once; tests work on copies of its file.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from fastapi import FastAPI
from sqlalchemy import Connection
from starlette.testclient import TestClient

from accord.ledger import Ledger, accounts, answers, projects, queue, talks, tokens
from accord.ledger.answers import Beside
from accord.ledger.database import utc_now
from accord.records import Completion, Group, Prompt, Question, Sampling
from accord.web.auth import Site
from accord.web.policies import Policies
from accord.web.questions import DEFAULT_FORM
from accord.web.security import Address

HOST = "accord.test"
ORIGIN = f"http://{HOST}"
ADDRESS = Address(frozenset({HOST}))
PASSWORD = "a long enough password"
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)  # 64 MB a hash would take minutes
ROLES = ("owner", "manager", "adjudicator", "rater", "viewer")
WHO = ("admin", *ROLES, "outsider", "stranger", "nobody")  # outsider: owns the other project
POLICY = "secret-policy-7b-step-900"
SOURCE = "secret-source.jsonl"
REASON = "secret-reason"


@dataclass(frozen=True)
class Objects:
    """Ids of what belongs to one project."""

    project: str
    assignment: str  # held by the project's rater
    judgement: str  # by the same
    invitation: str
    member: str  # the account of the project's rater
    items: tuple[str, ...]
    talk: str  # begun by the project's rater


@dataclass(frozen=True)
class World:
    path: Path
    mine: Objects  # of the project in which everybody but outsider and stranger has a role
    theirs: Objects
    accounts: dict[str, str]
    sessions: dict[str, str]  # session tokens
    tokens: dict[str, str]  # API tokens with every scope


def questions(prefix: str, n: int) -> list[Question]:
    made = []
    for i in range(n):
        prompt = Prompt.of(f"{prefix}: what is {i} + {i}?", source=f"{SOURCE}:{i}")
        drawn = Sampling(seed=i)
        good = Completion(prompt.id, f"{prefix} right {2 * i}", policy_version=POLICY, sampling=drawn)
        bad = Completion(prompt.id, f"{prefix} wrong {2 * i + 1}", policy_version=POLICY, sampling=drawn)
        made.append(Question(Group(prompt, (good, bad)), REASON, overlap=2))
    return made


def build(path: Path) -> World:
    hashed = CHEAP.hash(PASSWORD)
    with Ledger.open(path) as ledger:
        ledger.add_policy(POLICY, base_model="secret-base")
        with ledger.writing() as connection:
            now = utc_now()
            ids = {
                name: accounts.add_account(connection, name, hashed, admin=name == "admin", now=now)
                for name in (*WHO[:-1], "their-rater")
            }
            mine = _project(connection, "Mine", ids["rater"])
            theirs = _project(connection, "Theirs", ids["their-rater"])
            for role in ROLES:
                accounts.set_role(connection, mine.project, ids[role], role, now)
            accounts.set_role(connection, theirs.project, ids["outsider"], "owner", now)
            sessions = {name: accounts.start_session(connection, ids[name], now) for name in ids}
            bearers = {
                name: tokens.add_token(connection, ids[name], "t", tokens.SCOPES, seconds=3600, now=now)[1]
                for name in ids
            }
    return World(path, mine, theirs, ids, sessions, bearers)


def _project(connection: Connection, name: str, rater_account: str) -> Objects:
    now = utc_now()
    project_id = projects.add_project(
        connection, name, f"Guideline of {name}", overlap=2, form=form(), now=now
    )
    projects.add_questions(connection, project_id, questions(name, 6), now)
    accounts.set_role(connection, project_id, rater_account, "rater", now)
    found = accounts.by_id(connection, rater_account)
    project = projects.find_project(connection, project_id)
    assert found is not None and project is not None
    rater = queue.find_rater(connection, found[0].annotator_id)
    answered, held = queue.lease(
        connection, rater, project.guideline_id, now, limit=2, seconds=86400, seed=1, project=project_id
    )
    judged = answers.record(
        connection, answered.id, 2, Beside(comment="fine"), seconds=3.0, idempotency_key=f"{name}-first",
        revises=None, now=now,
    )  # fmt: skip
    invitation, _, _ = accounts.invite(
        connection, project_id, "rater", created_by=None, seconds=3600, now=now
    )
    items = tuple(projects.item_ids(connection, project_id))
    talk = talks.begin(connection, project_id, rater.id, opening="", consent="yes", now=now)
    return Objects(project_id, held.id, judged.id, invitation, rater_account, items, talk)


def form() -> dict[str, Any]:
    return DEFAULT_FORM | {"attributes": ["helpful", "honest"], "live": True}


def stub_policies(*names: str, **more: Any) -> Policies:
    """Policies that need no model: see stub_speaker.py. Close them."""
    command = (sys.executable, str(Path(__file__).with_name("stub_speaker.py")))
    return Policies(names or ("secret-policy",), command=command, **more)


def open_site(path: Path) -> Site:
    return Site(Ledger.open(path), ADDRESS, hasher=CHEAP, policies=stub_policies())


class Visit:
    """One browser, or one program with a token: what it sends is what those send."""

    def __init__(self, client: TestClient, *, session: str = "", visit: str = "", token: str = "") -> None:
        self._client = client
        self.token = token
        given = {"session": session, "visit": visit}
        self.cookies = {ADDRESS.cookie(name): value for name, value in given.items() if value}

    @property
    def app(self) -> FastAPI:
        assert isinstance(self._client.app, FastAPI)
        return self._client.app

    @property
    def csrf(self) -> str:
        from accord.web.security import csrf_token

        secret = self.cookies.get(ADDRESS.cookie("session")) or self.cookies.get(ADDRESS.cookie("visit"))
        return csrf_token(secret) if secret else ""

    def send(
        self,
        method: str,
        path: str,
        *,
        json_body: Any = None,
        form: dict[str, str] | None = None,
        content: bytes | None = None,
        headers: dict[str, str | None] | None = None,
        query: Any = None,
    ) -> Any:
        """`headers` with the value None are left out."""
        usual: dict[str, str | None] = {"host": HOST}
        if self.cookies:
            usual["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if self.token:
            usual["authorization"] = f"Bearer {self.token}"
        if method not in ("GET", "HEAD"):
            usual |= {"origin": ORIGIN, "sec-fetch-site": "same-origin"}
            if path.startswith("/api/"):
                usual |= {"x-csrf-token": self.csrf, "content-type": "application/json"}
        if json_body is not None:
            content = json.dumps(json_body, ensure_ascii=False).encode("utf-8", "backslashreplace")
        data = None
        if method == "POST" and not path.startswith("/api/"):
            data = {"csrf": self.csrf} | (form or {})
        sent = {k: v.encode() for k, v in (usual | (headers or {})).items() if v is not None}
        self._client.cookies.clear()
        response = self._client.request(method, path, content=content, data=data, headers=sent, params=query)
        for name, value in response.cookies.items():
            self.cookies[name] = value
        for line in response.headers.get_list("set-cookie"):
            if "Max-Age=0" in line:
                self.cookies.pop(line.partition("=")[0], None)
        return response

    def get(self, path: str, **rest: Any) -> Any:
        return self.send("GET", path, **rest)

    def post(self, path: str, json_body: Any = None, **rest: Any) -> Any:
        return self.send("POST", path, json_body=json_body, **rest)

    def sign_in(self, login: str, password: str = PASSWORD) -> Any:
        self.get("/login")
        return self.post("/login", form={"login": login, "password": password})
