"""The annotation app under load: many raters at once over a real `accord serve`.

    python benchmarks/leases.py                    # 50 raters, 1,000 questions, 3 answers each, on SQLite
    python benchmarks/leases.py --pause 1          # each rater takes a second over a question
    python benchmarks/leases.py --postgres         # on a PostgreSQL server of its own
    python benchmarks/leases.py --db postgresql://accord@/empty?host=/tmp

Prints how long a lease and a judgement take as the raters see it, and checks the promises: every question has
the answers that were wanted and not one more, nothing acknowledged is missing, nobody was asked twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from socket import socket
from statistics import quantiles
from typing import Any

from accord.ledger import Ledger, accounts, projects, tokens
from accord.ledger.database import utc_now
from accord.records import Completion, Group, Prompt, Question

FORM = {"flags": [], "attributes": [], "comment": False, "edit": False, "both_bad": True}
TESTS = Path(__file__).resolve().parents[1] / "tests"
DURABLE = ("listen_addresses=", "max_connections=100")  # no shortcuts: each commit waits for the disk
WANT = 2  # the question on the screen and the next one, as in the browser


@dataclass
class Rater:
    """One person with a browser: what she was told is stored, and how long she waited."""

    token: str
    project: str
    port: int
    pause: float = 0.0
    acknowledged: dict[str, str] = field(default_factory=dict)  # judgement by assignment
    leases: list[float] = field(default_factory=list)  # seconds
    judgements: list[float] = field(default_factory=list)
    retries: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def work(self) -> None:
        """Until there is nothing left to judge, or `stop`."""
        held: list[str] = []
        draw = random.Random(self.token)
        while not self.stop.is_set():
            if len(held) < WANT:
                reply = self._ask(f"projects/{self.project}/lease", {"want": WANT}, self.leases)
                held = [question["assignment"] for question in reply.get("questions", [])]
                if not held:
                    return
            assignment = held.pop(0)
            self.stop.wait(self.pause * draw.uniform(0.5, 1.5))
            said = {"strength": draw.randint(-3, 3), "seconds": 1.0, "key": f"key-{assignment}"}
            reply = self._ask(f"assignments/{assignment}/judgement", said, self.judgements)
            if "judgement" in reply:
                self.acknowledged[assignment] = reply["judgement"]

    def _ask(self, path: str, body: dict[str, Any], times: list[float]) -> dict[str, Any]:
        """The reply, however often the server has to be asked; {} when stopped or refused as out of date."""
        while not self.stop.is_set():
            began = time.perf_counter()
            try:
                status, reply = self._send(path, body)
            except (OSError, HTTPException, ValueError):  # the server died, or was never there
                self._close()
                status, reply = 0, {}
            if status == 200:
                times.append(time.perf_counter() - began)
                return reply
            if status == 409:
                return {}
            if status not in (0, 429, 503):
                raise RuntimeError(f"{path}: {status} {reply}")
            self.retries += 1
            time.sleep(0.05)
        return {}

    def _send(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if (connection := getattr(self, "_connection", None)) is None:
            connection = self._connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        connection.request("POST", f"/api/v1/{path}", json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def _close(self) -> None:
        if (connection := getattr(self, "_connection", None)) is not None:
            connection.close()
        self._connection = None


def prepare(
    db: str, *, raters: int, questions: int, overlap: int, port: int, pause: float = 0
) -> list[Rater]:
    """A project with its questions, and people who may judge them."""
    with Ledger.open(db) as ledger, ledger.writing() as connection:
        now = utc_now()
        project = projects.add_project(connection, "Load", "Choose.", overlap=overlap, form=FORM, now=now)
        asked = []
        for i in range(questions):
            prompt = Prompt.of(f"Question {i}: which of the two answers is better, and by how much?")
            answers = (Completion(prompt.id, f"Answer {side} to {i}. " * 8) for side in "AB")
            asked.append(Question(Group(prompt, tuple(answers)), "load", overlap=overlap))
        projects.add_questions(connection, project, asked, now)
        made = []
        for i in range(raters):
            account = accounts.add_account(connection, f"rater {i}", "no password", admin=False, now=now)
            accounts.set_role(connection, project, account, "rater", now)
            token = tokens.add_token(connection, account, "load", ["judge"], seconds=86_400, now=now)[1]
            made.append(Rater(token, project, port, pause))
    return made


def free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(db: str, port: int) -> subprocess.Popen[str]:
    """`accord serve`, once it answers."""
    code = "from accord.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--db", db, "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert server.stdout is not None
    said = []
    for line in server.stdout:
        said.append(line)
        if line.startswith("Accord serves"):
            return server
    raise RuntimeError(f"accord serve ended: {''.join(said)}")


@contextmanager
def serving(db: str, port: int) -> Iterator[None]:
    server = start(db, port)
    try:
        yield
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)


def run(raters: Sequence[Rater]) -> float:
    """Seconds until nobody has anything left to judge."""
    threads = [threading.Thread(target=rater.work) for rater in raters]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def problems(db: str, raters: Sequence[Rater], overlap: int) -> list[str]:
    """What is not as promised."""
    with Ledger.open(db, create=False) as ledger:
        stored = ledger.judgements()
        found = list(ledger.verify().problems)
        with ledger.reading() as connection:
            items = projects.item_ids(connection, raters[0].project)
    answers = Counter(judged.item_id for judged in stored)
    found += [f"question {i}: {answers[i]} of {overlap} answers" for i in items if answers[i] != overlap]
    told = Counter(judgement for rater in raters for judgement in rater.acknowledged.values())
    found += [f"judgement {j} was acknowledged {n} times" for j, n in told.items() if n > 1]
    found += [f"judgement {j} is lost" for j in told.keys() - {judged.id for judged in stored}]
    twice = Counter((judged.item_id, judged.rater) for judged in stored)
    found += [f"{rater} judged {item} {n} times" for (item, rater), n in twice.items() if n > 1]
    return found


def _database(chosen: argparse.Namespace, stack: ExitStack) -> str:
    if chosen.postgres:
        sys.path.insert(0, str(TESTS))
        from postgres_server import running

        return str(stack.enter_context(running(DURABLE))())
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    return chosen.db or os.fspath(Path(folder) / "ledger.sqlite")


def _line(name: str, seconds: Sequence[float]) -> str:
    cuts = quantiles(seconds, n=100)
    p50, p95, p99 = (1000 * cuts[i - 1] for i in (50, 95, 99))
    return f"{name:<10} n {len(seconds):>5}   p50 {p50:6.1f} ms   p95 {p95:6.1f} ms   p99 {p99:6.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--db", help="an empty database's URL or a new file (default: a temporary file)")
    parser.add_argument("--postgres", action="store_true", help="start a PostgreSQL server for this")
    parser.add_argument("--raters", type=int, default=50)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--overlap", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that a rater takes, on average")
    chosen = parser.parse_args()
    with ExitStack() as stack:
        db, port = _database(chosen, stack), free_port()
        raters = prepare(
            db, raters=chosen.raters, questions=chosen.questions, overlap=chosen.overlap, port=port,
            pause=chosen.pause,
        )  # fmt: skip
        with serving(db, port):
            seconds = run(raters)
        wrong = problems(db, raters, chosen.overlap)
    leases = [t for rater in raters for t in rater.leases]
    judgements = [t for rater in raters for t in rater.judgements]
    print(f"{chosen.raters} raters, {chosen.questions} questions x {chosen.overlap}: {seconds:.1f} s")
    print(_line("lease", leases))
    print(_line("judgement", judgements))
    print(f"asked again after a refusal: {sum(rater.retries for rater in raters)}")
    print("\n".join(wrong[:10]) or "every question has the answers that were wanted; nothing is lost")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
