"""Running loops, for whoever may see quality: what each has done, what it waits for, and its curves.

Everything is read from the files of a run's folder (`accord run --out FOLDER`). Those files hold no text of a
rater and no answer of a model is shown here.
"""

# No `from __future__ import annotations`: FastAPI must see the dependencies that `sees_runs` makes.

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import HTMLResponse

from accord.ledger import projects
from accord.ledger.accounts import Account
from accord.web.auth import PERMISSIONS, RefusedError, Site, caller, not_found, site_of
from accord.web.templating import page

router = APIRouter(tags=["runs"])

NAME = re.compile(r"[\w][\w.-]{0,99}", re.ASCII)
FILES = ("live.json", "state.json")
POINTS = 200  # of a curve; longer ones are thinned
LONGEST = 4 << 20  # bytes of a log that are read, from its end
SILENT_SECONDS = {"waiting": 120.0, "working": 1800.0}  # without a sign of life

# (metric, title, what it should do)
CURVES: Mapping[str, Sequence[tuple[str, str, str]]] = {
    "sft": [("loss", "SFT: loss", "fall, and not reach 0")],
    "reward": [
        ("loss", "Reward model: loss", "fall"),
        ("rewards/accuracies", "Reward model: accuracy on the batch", "rise towards the raters' ceiling"),
    ],
    "": [
        ("objective/scores", "Reward", "rise, and level off"),
        ("objective/kl", "KL to the reference, nats per answer", "settle near its target"),
        ("loss", "Loss", "stay small; it need not fall"),
        ("completions/mean_length", "Answer length, tokens", "change little: longer is not better"),
    ],
}


def sees_runs(scope: str) -> Any:
    """A dependency: an administrator, or somebody who may see the quality of some project.

    Which runs she sees is for `visible_runs` to say.
    """

    def check(request: Request, account: Annotated[Account, Depends(caller(scope))]) -> Account:
        with site_of(request).ledger.reading() as connection:
            roles = projects.projects_of(connection, account.id).values()
        if not account.admin and not any("quality" in PERMISSIONS[role] for role in roles):
            raise RefusedError(403, "forbidden", "runs are shown to owners, managers and viewers of projects")
        return account

    return check


Viewer = Annotated[Account, Depends(sees_runs(""))]
Program = Annotated[Account, Depends(sees_runs("read"))]


@router.get("/runs", include_in_schema=False)
def runs_page(request: Request, account: Viewer) -> HTMLResponse:
    rows = [_row(run_state(path)) for path in visible_runs(site_of(request), account)]
    return page(request, "runs.html", account=account, runs=rows, shown=site_of(request).runs is not None)


@router.get("/runs/{run}", include_in_schema=False)
def run_page(request: Request, account: Viewer, run: str) -> HTMLResponse:
    return page(
        request, "live.html", account=account, run=run_state(_folder(request, account, run)), chart=chart
    )


@router.get("/api/v1/runs")
def runs_json(request: Request, account: Program) -> dict[str, Any]:
    """Every run: how far it is, and what it waits for."""
    return {"runs": [_row(run_state(path)) for path in visible_runs(site_of(request), account)]}


@router.get("/api/v1/runs/{run}")
def run_json(request: Request, account: Program, run: str) -> dict[str, Any]:
    """One run: its steps, rounds and curves."""
    return run_state(_folder(request, account, run))


def visible_runs(site: Site, account: Account) -> list[Path]:
    """Administrators see every run; others those that ask people in a project whose quality they may see."""
    found = run_folders(site.runs)
    if account.admin or not found:
        return found
    with site.ledger.reading() as connection:
        roles = projects.projects_of(connection, account.id)
        named = {}
        for project_id in reversed(
            projects.all_projects(connection)
        ):  # of two of a name, the oldest is meant
            if (project := projects.find_project(connection, project_id)) is not None:
                named[project.name] = project_id
    mine = {name for name, id_ in named.items() if "quality" in PERMISSIONS.get(roles.get(id_, ""), ())}
    return [
        path for path in found if _same_file(path / "ledger.sqlite", site.ledger.name) and _asks(path) in mine
    ]


def _asks(path: Path) -> str:
    """The project in which a run asks people."""
    return str(_json(path / "live.json").get("project") or "")


def _same_file(path: Path, other: str) -> bool:
    """A project of the same name in another ledger is another project."""
    try:
        return path.samefile(other)
    except (OSError, ValueError):
        return False


def run_folders(folder: Path | None) -> list[Path]:
    """The runs in a folder, or the folder itself when it is one; the one with the last sign of life first."""
    if folder is None or not folder.is_dir():
        return []
    found = [path for path in (folder, *folder.iterdir()) if NAME.fullmatch(path.name) and _is_run(path)]
    return sorted(found, key=_last_sign, reverse=True)


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in FILES)


def _folder(request: Request, account: Account, run: str) -> Path:
    """Only what the list names: no path can be put together from a request."""
    shown = visible_runs(site_of(request), account)
    found = next((path for path in shown if path.name == run), None)
    if found is None:
        raise not_found("this run")
    return found


def _row(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: state[name] for name in ("name", "status", "step", "done", "total", "waiting", "last_sign")}


# What a run's files say


def run_state(path: Path) -> dict[str, Any]:
    """All that the page shows. Files that are missing or being written are passed over."""
    told, done = _json(path / "live.json"), _json(path / "state.json").get("done", {})
    names = [str(name) for name in told.get("steps") or done]
    sign = _last_sign(path)
    now, ended = str(told.get("step") or ""), str(told.get("ended") or "")
    status = _status(told, ended, sign)
    waiting = told.get("waiting") if status in ("running", "silent") else None
    steps = [_step(name, done.get(name), name == now, ended) for name in names]
    logs = {name: _metrics(path / name) for name in names if name.split("/")[-1] in _training(names)}
    return {
        "name": path.name,
        "status": status,
        "ended": ended,
        "step": now if status != "finished" else "",
        "since": str(told.get("since") or ""),
        "waiting": waiting,
        "done": sum(step["state"] == "done" for step in steps),
        "total": len(steps),
        "steps": steps,
        "rounds": [_round(n, names, done) for n in _rounds(names)],
        "curves": [c for name in reversed(logs) for c in _curves(name, logs[name])],  # the newest first
        "last_sign": datetime.fromtimestamp(sign, UTC).isoformat(timespec="seconds"),
    }


def _status(told: Mapping[str, Any], ended: str, sign: float) -> str:
    """running, silent (perhaps killed), finished, stopped (will go on), failed; "unknown" of older runs."""
    if not told:
        return "unknown"
    if not ended:
        silent = datetime.now(UTC).timestamp() - sign
        longest = SILENT_SECONDS["waiting" if told.get("waiting") else "working"]
        return "silent" if silent > longest else "running"
    if ended == "finished":
        return "finished"
    return "stopped" if ended.startswith("stopped") or "run the same command again" in ended else "failed"


def _step(name: str, result: Mapping[str, Any] | None, now: bool, ended: str) -> dict[str, Any]:
    state = "done" if result is not None else "ahead"
    if now and result is None:
        state = "now" if not ended else "stopped"
    return {"name": name, "state": state, "seconds": (result or {}).get("seconds")}


def _rounds(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.partition("/")[0] for name in names if "/" in name))


def _training(names: Iterable[str]) -> set[str]:
    """Last parts of the names of steps that log metrics."""
    quiet = {"sample", "ask", "eval", "compare", "gate"}
    return {name.split("/")[-1] for name in names} - quiet


def _round(name: str, names: Iterable[str], done: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of one round, as far as it is."""
    got = {part.partition("/")[2]: done.get(part, {}) for part in names if part.startswith(f"{name}/")}
    asked, fitted, checked = (got.get(step) or {} for step in ("ask", "reward", "eval"))
    compared = got.get("compare") or {}
    accuracy = (fitted.get("card") or {}).get("accuracy") or {}
    policy = {**(checked.get("policy") or {}), **compared}
    return {
        "name": name,
        "judgements": asked.get("judgements"),
        "alpha": (asked.get("agreement") or {}).get("alpha"),
        "accuracy": _interval(accuracy, "value"),
        "win_rate": _interval(policy, "win_rate_vs_sft"),
        "kl": policy.get("kl"),
        "accepted": (got.get("gate") or {}).get("accepted"),
    }


def _interval(found: Mapping[str, Any], name: str) -> dict[str, float] | None:
    if found.get(name) is None:
        return None
    return {"value": found[name], "low": found.get("low"), "high": found.get("high")}


def _curves(step: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    kind = step.split("/")[-1]
    found = []
    for key, title, good in CURVES.get(kind, CURVES[""]):
        known = [row for row in rows if _number(row.get(key)) and _number(row.get("step"))]
        points = [(row["step"], row[key]) for row in known]
        if points:
            thin = points[:: math.ceil(len(points) / POINTS)]
            thin += points[-1:] if thin[-1] != points[-1] else []
            found.append({"step": step, "key": key, "title": title, "good": good, "points": thin})
    return found


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl: of a long one the last, without a line that is still being written."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LONGEST))
            lines = file.read().splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _last_sign(path: Path) -> float:
    """When a file of the run was last written, in seconds since 1970."""
    files = [*(path / name for name in FILES), *path.glob("**/metrics.jsonl")]
    times = []
    for file in files:
        try:
            times.append(file.stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)


# Drawing


def chart(points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """A curve as SVG numbers: the line in a box of 320 x 120, and the labels of its axes."""
    xs, ys = [float(x) for x, _ in points], [float(y) for _, y in points]
    low, high = min(ys), max(ys)
    spread, width = (high - low) or 1.0, (xs[-1] - xs[0]) or 1.0
    at = [
        (40 + 275 * (x - xs[0]) / width, 100 - 88 * (y - low) / spread if high > low else 56.0)
        for x, y in zip(xs, ys, strict=True)
    ]
    return {
        "line": " ".join(f"{x:.1f},{y:.1f}" for x, y in at),
        "end": at[-1],
        "low": f"{low:.3g}",
        "high": f"{high:.3g}" if high > low else "",
        "last": f"{ys[-1]:.3g}",
        "first_step": f"{xs[0]:g}",
        "last_step": f"{xs[-1]:g}",
    }
