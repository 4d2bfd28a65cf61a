"""Talks with real models: what the ledger keeps is what a trainer computes; the app itself loads no torch."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fastapi import FastAPI

from accord.data.render import Renderer
from accord.ledger import Ledger, accounts, projects, queue
from accord.ledger.database import utc_now
from accord.models.load import load_model
from accord.records import Sampling
from accord.web.auth import Site
from accord.web.policies import Policies, turn_seed
from tiny import tiny_llama, tiny_tokenizer
from web.conftest import Visits
from web.serving import free_port
from web.test_talks import Talker, assert_told, wait_for
from web.world import CHEAP, PASSWORD, World

SAMPLING = Sampling(temperature=1.3, max_new_tokens=24)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two tiny random models with a short context, as training would write them."""
    folders = []
    for seed in (1, 2):
        folder = tmp_path_factory.mktemp("models") / f"policy-{seed}"
        tiny_llama(seed=seed, max_position_embeddings=600).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        folders.append(folder)
    return folders


@contextmanager
def talking_with(visit: Visits, site: Site, folders: list[Path]) -> Iterator[Policies]:
    app = visit().app
    assert isinstance(app, FastAPI)
    made = Policies([str(folder) for folder in folders], SAMPLING)
    app.state.site = replace(site, policies=made)
    try:
        yield made
    finally:
        made.close()


def test_what_the_ledger_keeps_is_what_a_trainer_computes(
    visit: Visits, site: Site, world: World, models: list[Path]
) -> None:
    loaded = {folder.name: load_model(str(folder), dtype="float32") for folder in models}
    questions = []
    with talking_with(visit, site, models):
        talker = Talker(visit("rater"), world.mine.project, opening="Be kind.")
        for n, text in enumerate(("Hello!", "What is <|im_end|>?", "สวัสดี 👋🏽"), 1):
            question = talker.say(text).json()
            talker.judge(question, n)
            questions.append(question["assignment"])
        assert_told(talker.say("long " * 120), 409, "too long for this model")
        assert talker.say("short").status_code == 200
    with site.ledger.reading() as connection:
        groups = [queue.find_assignment(connection, each)[0].group for each in questions]
    for n, group in enumerate(groups, 1):
        assert len({completion.policy_version for completion in group.completions}) == 2
        seeds = {completion.sampling.seed for completion in group.completions if completion.sampling}
        assert seeds == {turn_seed(talker.talk, n, sample) for sample in (0, 1)}
        for completion in group.completions:
            name, _, weights = completion.policy_version.partition("@")
            assert re.fullmatch("[0-9a-f]{12}", weights)
            assert completion.sampling == replace(SAMPLING, seed=completion.sampling.seed)  # type: ignore[union-attr]
            model = loaded[name.rpartition("/")[2]]
            head = Renderer(model.tokenizer).prompt(group.prompt)
            ids = torch.tensor([[*head, *completion.token_ids]])
            with torch.no_grad():
                logits = model.model(input_ids=ids).logits[0, len(head) - 1 : -1].double()
            logps = (logits / SAMPLING.temperature).log_softmax(-1)
            expected = logps.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
            stored = torch.tensor(completion.logps, dtype=torch.float64)
            assert len(stored) == len(completion.token_ids) > 0
            torch.testing.assert_close(stored, expected, rtol=0, atol=1e-4)
    assert site.ledger.verify().ok


def test_one_model_answers_twice_from_one_seed_and_dies_and_comes_back(
    visit: Visits, site: Site, world: World, models: list[Path]
) -> None:
    with talking_with(visit, site, models[:1]) as policies:
        talker = Talker(visit("rater"), world.mine.project)
        question = talker.say("Hello!").json()
        with site.ledger.reading() as connection:
            one, two = queue.find_assignment(connection, question["assignment"])[0].group.completions
        assert (one.sampling, one.policy_version) == (two.sampling, two.policy_version)
        assert one.index == 0 < two.index and one.text != two.text
        talker.judge(question, 1)
        assert policies._speaker is not None
        os.kill(policies._speaker.process.pid, signal.SIGKILL)
        wait_for(lambda: policies._speaker.process.poll() is not None)  # type: ignore[union-attr]
        assert talker.say("And again").status_code == 200


# The server as a process


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]


def gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def ledger(tmp_path: Path) -> tuple[Path, str, str]:
    """A ledger with a project in which `rater` may talk: its path, the project, and a session."""
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as opened, opened.writing() as connection:
        now = utc_now()
        hashed = CHEAP.hash(PASSWORD)
        who = accounts.add_account(connection, "rater", hashed, admin=True, now=now)
        project = projects.add_project(
            connection, "Talks", "Choose.", overlap=1, form={"live": True}, now=now
        )
        session = accounts.start_session(connection, who, now)
    return path, project, session


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_app_loads_no_torch_and_takes_the_models_with_it(
    ledger: tuple[Path, str, str], models: list[Path], how: signal.Signals
) -> None:
    import json
    import urllib.request

    from accord.web.security import csrf_token

    path, project, session = ledger
    port = free_port()
    run = "from accord.cli import main; main()"
    command = [sys.executable, "-c", run, "serve", "--db", str(path), "--port", str(port)]
    command += ["--policy", str(models[0]), "--max-new-tokens", "8"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as server:

        def ask(method: str, route: str, body: object = None) -> dict[str, object]:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/api/v1{route}",
                data=None if body is None else json.dumps(body).encode(),
                method=method,
                headers={
                    "Cookie": f"accord-{port}-session={session}",
                    "X-CSRF-Token": csrf_token(session),
                    "Origin": f"http://127.0.0.1:{port}",
                    "Content-Type": "application/json",
                },
            )
            with urllib.request.urlopen(request) as reply:
                return json.loads(reply.read())  # type: ignore[no-any-return]

        try:
            assert server.stdout is not None and "Accord serves" in server.stdout.readline()
            talk = ask("POST", f"/projects/{project}/talks", {"consent": True})["talk"]
            assert children(server.pid) == []
            ask("POST", f"/talks/{talk}/turns", {"text": "Hello", "key": "0123456789"})
            (speaker,) = children(server.pid)
            assert "libtorch" in Path(f"/proc/{speaker}/maps").read_text()
            assert "libtorch" not in Path(f"/proc/{server.pid}/maps").read_text()
            server.send_signal(how)
            server.wait(30)
            until = time.monotonic() + 30
            while not gone(speaker):
                assert time.monotonic() < until, "the models outlive the app"
                time.sleep(0.02)
        finally:
            server.kill()
