"""The live page of a running loop: what it shows of a run's files, to whom, and what it does not trust."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from accord.web import live
from accord.web.auth import Site
from web.conftest import Visits

STEPS = ["sft", *(f"round-1/{s}" for s in ("sample", "ask", "reward", "ppo", "eval", "gate"))]
WAITING = {"ledger": "l", "project": "answers", "given": 12, "needed": 40, "wanted": 40, "people": 2}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """One run that waits for people in its first round."""
    folder = tmp_path / "runs"
    told = {"steps": STEPS, "step": "round-1/ask", "since": "2026-11-21T10:00:00+00:00", "ended": ""}
    write(folder / "mine" / "live.json", {**told, "waiting": WAITING})
    done = {"sft": {"seconds": 125.0}, "round-1/sample": {"seconds": 9.5}}
    write(folder / "mine" / "state.json", {"settings": "x", "done": done})
    rows = [{"step": i, "loss": 3.0 - i / 100} for i in range(1, 101)]
    write(folder / "mine" / "sft" / "metrics.jsonl", "\n".join(map(json.dumps, rows)) + '\n{"step": 101, "lo')
    return folder


@pytest.fixture
def shown(site: Site, runs: Path, client: Any) -> Path:
    """The app shows the folder `runs`, whose run asks people in the project Mine of the app's ledger."""
    (runs / "mine" / "ledger.sqlite").hardlink_to(site.ledger.name)
    told = json.loads((runs / "mine" / "live.json").read_text())
    write(runs / "mine" / "live.json", {**told, "project": "Mine"})
    client.app.state.site = replace(site, runs=runs)
    return runs


def test_what_it_waits_for_and_how_far_it_is(runs: Path) -> None:
    state = live.run_state(runs / "mine")
    assert (state["status"], state["step"], state["done"], state["total"]) == ("running", "round-1/ask", 2, 7)
    assert state["waiting"] == WAITING
    assert [s["state"] for s in state["steps"]] == ["done", "done", "now", *["ahead"] * 4]
    (curve,) = state["curves"]
    assert curve["points"][0] == (1, 2.99) and curve["points"][-1] == (100, 2.0)  # the torn line is not there


def test_the_numbers_of_a_round(runs: Path) -> None:
    state = json.loads((runs / "mine" / "state.json").read_text())
    policy = {"win_rate_vs_sft": None, "low": None, "high": None, "kl": 5.5}
    state["done"] |= {
        "round-1/ask": {"judgements": 40, "agreement": {"alpha": 0.31}, "seconds": 1.0},
        "round-1/reward": {"card": {"accuracy": {"value": 0.7, "low": 0.6, "high": 0.8}}, "seconds": 2.0},
        "round-1/eval": {"policy": policy, "seconds": 3.0},
    }
    write(runs / "mine" / "state.json", state)
    (found,) = live.run_state(runs / "mine")["rounds"]
    assert (found["judgements"], found["alpha"], found["kl"]) == (40, 0.31, 5.5)
    assert found["accuracy"] == {"value": 0.7, "low": 0.6, "high": 0.8}
    assert found["win_rate"] is None and found["accepted"] is None
    state["done"] |= {
        "round-1/compare": {"win_rate_vs_sft": 0.6, "low": 0.5, "high": 0.7, "seconds": 4.0},
        "round-1/gate": {"accepted": False, "seconds": 0.0},
    }
    told = json.loads((runs / "mine" / "live.json").read_text())
    write(runs / "mine" / "live.json", {**told, "steps": [*STEPS[:-1], "round-1/compare", STEPS[-1]]})
    write(runs / "mine" / "state.json", state)
    (found,) = live.run_state(runs / "mine")["rounds"]
    assert found["win_rate"] == {"value": 0.6, "low": 0.5, "high": 0.7} and found["accepted"] is False


@pytest.mark.parametrize(
    ("ended", "status"),
    [
        ("finished", "finished"),
        ("stopped", "stopped"),
        ("stopped while waiting for people: run the same command again to go on", "stopped"),
        ("SFT: stopped after step 3 of 9 and saved; run the same command again to go on", "stopped"),
        ("disk: no space left", "failed"),
    ],
)
def test_how_it_ended(runs: Path, ended: str, status: str) -> None:
    told = json.loads((runs / "mine" / "live.json").read_text())
    write(runs / "mine" / "live.json", {**told, "ended": ended})
    state = live.run_state(runs / "mine")
    assert state["status"] == status and state["waiting"] is None
    assert state["steps"][2]["state"] == "stopped"


def test_a_killed_run_is_silent(runs: Path) -> None:
    long_ago = time.time() - 3600
    for file in runs.glob("mine/**/*.json*"):
        os.utime(file, (long_ago, long_ago))
    assert live.run_state(runs / "mine")["status"] == "silent"


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"done": {}}', '{"steps": ["sft"], "step": 3}'])
def test_files_that_are_being_written_are_no_defect(runs: Path, damaged: str) -> None:
    write(runs / "mine" / "live.json", damaged)
    assert live.run_state(runs / "mine")["name"] == "mine"
    write(runs / "mine" / "state.json", damaged)
    assert live.run_state(runs / "mine")["done"] == 0


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    rows = [{"step": i, "loss": float(i)} for i in range(1, 5002)]
    (curve,) = live._curves("sft", rows)
    assert len(curve["points"]) <= live.POINTS + 1
    assert curve["points"][0] == (1, 1.0) and curve["points"][-1] == (5001, 5001.0)


def test_a_chart_stays_in_its_box_and_rises_when_the_values_do() -> None:
    drawn = live.chart([(1, 2.0), (2, 1.0), (3, 5.0)])
    at = [tuple(map(float, point.split(","))) for point in drawn["line"].split()]
    assert [x for x, _ in at] == [40.0, 177.5, 315.0]
    assert at[1][1] == 100.0 and at[2][1] == 12.0 and at[1][1] > at[0][1] > at[2][1]
    assert live.chart([(1, 0.5)])["line"] == "40.0,56.0"


def test_the_pages(visit: Visits, shown: Path) -> None:
    told = visit("viewer").get("/runs").text
    assert "mine" in told and "waits for 28 judgements" in told
    page = visit("viewer").get("/runs/mine").text
    assert "12 of 40 judgements are in" in page and "<polyline" in page and 'data-live="3"' in page
    assert "style=" not in page and "onload" not in page
    found = visit("owner", by="token").get("/api/v1/runs/mine").json()
    assert found["waiting"]["given"] == 12
    assert [run["name"] for run in visit("owner", by="token").get("/api/v1/runs").json()["runs"]] == ["mine"]


def test_a_server_without_runs_says_how(visit: Visits, site: Site, client: Any) -> None:
    client.app.state.site = replace(site, runs=None)
    assert "accord serve --runs FOLDER" in visit("admin").get("/runs").text


def test_the_folder_may_be_a_run_itself(visit: Visits, site: Site, runs: Path, client: Any) -> None:
    client.app.state.site = replace(site, runs=runs / "mine")
    assert "12 of 40" in visit("admin").get("/runs/mine").text


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "..%2fmine", "mine%2f..", "other", "mine%00", ".hidden", "live.json"]
)
def test_nothing_but_the_listed_runs_is_read(visit: Visits, shown: Path, name: str) -> None:
    write(shown.parent / "live.json", {"steps": [], "ended": "finished"})  # outside
    write(shown / ".hidden" / "live.json", {"steps": []})
    write(shown / "other" / "notes.txt", "no run")
    response = visit("admin").get(f"/api/v1/runs/{name}")
    assert response.status_code == 404 or name in ("..", "%2e%2e")  # the client makes those /api/v1
    assert "finished" not in response.text


def test_raters_do_not_see_runs(visit: Visits, shown: Path) -> None:
    for who, status in (("rater", 403), ("adjudicator", 403), ("stranger", 403), ("manager", 200)):
        assert visit(who).get("/runs/mine").status_code == status
        assert visit(who, by="token").get("/api/v1/runs/mine").status_code == status


@pytest.mark.parametrize("why", ["another project", "another ledger", "simulated raters", "a role elsewhere"])
def test_a_run_of_others_is_for_administrators_only(visit: Visits, shown: Path, why: str) -> None:
    told = json.loads((shown / "mine" / "live.json").read_text())
    if why == "another ledger":
        (shown / "mine" / "ledger.sqlite").unlink()
        write(shown / "mine" / "ledger.sqlite", "another one")
    elif why != "a role elsewhere":
        project = "Theirs" if why == "another project" else ""
        write(shown / "mine" / "live.json", {**told, "project": project})
    for who in ("outsider",) if why == "a role elsewhere" else ("owner", "viewer"):
        assert visit(who).get("/runs/mine").status_code == 404
        assert visit(who, by="token").get("/api/v1/runs/mine").status_code == 404
        assert visit(who, by="token").get("/api/v1/runs").json() == {"runs": []}
        assert "mine" not in visit(who).get("/runs").text.split("<main")[1].split("</main>")[0]
    assert visit("admin").get("/runs/mine").status_code == 200
    if why == "another project":
        assert visit("outsider").get("/runs/mine").status_code == 200


def test_hostile_names_are_text(visit: Visits, shown: Path) -> None:
    evil = "<script>alert(1)</script>"
    told = {"steps": [f"round-1/{evil}"], "step": f"round-1/{evil}", "since": evil, "ended": ""}
    write(shown / "mine" / "live.json", {**told, "waiting": {**WAITING, "project": evil}})
    page = visit("admin").get("/runs/mine").text
    assert evil not in page and "&lt;script&gt;" in page
