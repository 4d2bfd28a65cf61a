"""The API by its own description: whatever fits it or breaks it, no request is a defect."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any, cast

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from starlette.testclient import TestClient

from accord.ledger import Ledger, database
from accord.web.app import make_app
from accord.web.auth import Site
from accord.web.openapi import describe
from web.conftest import Visits
from web.world import ADDRESS, Visit, World, open_site

EXAMPLES = 12  # of each operation: about 400 requests in all


@pytest.fixture(scope="module")
def fuzzed(client: TestClient, world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site without limits on how often one may ask."""
    path = tmp_path_factory.mktemp("fuzz") / "ledger.sqlite"
    shutil.copyfile(world.path, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "SYNCHRONOUS", "OFF")
        site = open_site(path)
        site.writes_per_account.limit = site.sign_ins_per_login.limit = 10**9
        site.sign_ins_per_address.limit = 10**9
        yield site
        site.ledger.close()


def description() -> dict[str, Any]:
    """Of an app that is not running yet, since tests are collected before there is a ledger."""
    nothing = cast(Ledger, None)
    return describe(make_app(Site(nothing, ADDRESS)).openapi())


api = schemathesis.openapi.from_dict(description())


@api.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    database=None,
)
def test_no_request_is_a_defect(
    case: schemathesis.Case, client: TestClient, world: World, fuzzed: Site
) -> None:
    assert isinstance(client.app, FastAPI)
    client.app.state.site = fuzzed
    mine = world.mine
    real = {
        "project_id": mine.project,
        "assignment_id": mine.assignment,
        "judgement_id": mine.judgement,
        "account_id": mine.member,
        "invitation_id": mine.invitation,
        "format": "judgements.jsonl",
    }
    for name in case.path_parameters or {}:  # invented ids are all 404, and the rest is never reached
        if name in real:
            case.path_parameters[name] = real[name]
    who = "rater" if "/assignments/" in case.path else "admin"
    browser = Visit(client, session=world.sessions[who])
    sent = case.as_transport_kwargs(base_url="http://x")
    media = sent["headers"].get("Content-Type", "application/json")
    headers: dict[str, str | None] = {"content-type": media}
    if name := sent["headers"].get("x-file-name"):
        headers["x-file-name"] = str(name)
    body = sent.get("json", sent.get("data"))
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    response = browser.send(
        case.method, sent["url"].removeprefix("http://x"), content=content, headers=headers,
        query=sent.get("params"),
    )  # fmt: skip
    documented = {*case.operation.definition.raw["responses"], "405"}  # other methods are tried too
    assert str(response.status_code) in documented, (response.status_code, response.text[:300])
    if response.status_code >= 400:
        error = response.json()["error"]
        assert error["code"] and error["message"]


def test_the_description_tells_every_route_its_errors_and_the_token(visit: Visits) -> None:
    described = visit("rater", by="token").get("/api/v1/openapi.json").json()
    assert described == description()
    assert described["security"] == [{"token": []}]
    assert described["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    operations = [o for methods in described["paths"].values() for o in methods.values()]
    assert len(operations) >= 25
    for operation in operations:
        assert {"200", "401", "403", "404", "422"} <= set(operation["responses"])
        assert operation["responses"]["422"]["content"]["application/json"]["schema"]["$ref"].endswith(
            "ErrorReply"
        )
    assert "HTTPValidationError" not in json.dumps(described)
