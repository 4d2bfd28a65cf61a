"""The server over a copy of a small world, without a network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from accord.ledger import database
from accord.web.app import make_app
from accord.web.auth import Site
from web.world import ORIGIN, Visit, World, build, open_site

Visits = Callable[..., Visit]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Do not write to its file."""
    path = tmp_path_factory.mktemp("world") / "ledger.sqlite"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "SYNCHRONOUS", "OFF")
        return build(path)


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests cut no power."""
    monkeypatch.setattr(database, "SYNCHRONOUS", "OFF")


@pytest.fixture
def site(world: World, tmp_path: Path, no_fsync: None) -> Iterator[Site]:
    """Over a fresh copy of the world."""
    path = tmp_path / "ledger.sqlite"
    shutil.copyfile(world.path, path)
    made = open_site(path)
    yield made
    if made.policies is not None:
        made.policies.close()
    made.ledger.close()


@pytest.fixture(scope="session")
def client(world: World) -> Iterator[TestClient]:
    """One app for all tests: `site` is put into it for each."""
    app = make_app(open_site(world.path))
    with TestClient(app, base_url=ORIGIN, follow_redirects=False) as made:
        yield made
    app.state.site.ledger.close()


@pytest.fixture
def visit(client: TestClient, site: Site, world: World) -> Visits:
    """visit("rater") is a browser in which the rater is signed in, visit("rater", by="token") her program.

    visit("nobody") has seen a page of the app, visit("new") not even that.
    """
    assert isinstance(client.app, FastAPI)
    client.app.state.site = site

    def make(who: str = "nobody", *, by: str = "session") -> Visit:
        if who in ("nobody", "new"):
            return Visit(client, visit="seen" if who == "nobody" else "")
        if by == "token":
            return Visit(client, token=world.tokens[who])
        return Visit(client, session=world.sessions[who])

    return make
