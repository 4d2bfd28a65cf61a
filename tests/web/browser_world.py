"""A shop's project with realistic questions and answers, a running server, and pages of a real browser."""

from __future__ import annotations

import random
import shutil
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import uvicorn
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Request
from sqlalchemy import Connection

from accord.ledger import Ledger, accounts, answers, judging, projects, queue
from accord.ledger.answers import Beside
from accord.ledger.database import utc_now
from accord.records import Completion, Group, Judgement, Prompt, Question, Sampling
from accord.scenarios.shop import load_scenario
from accord.web.app import make_app, set_up_url
from accord.web.auth import Site
from accord.web.policies import Policies
from accord.web.questions import DEFAULT_FORM
from accord.web.security import Address
from web.world import CHEAP

CHROMIUM = Path("/usr/bin/chromium")
PASSWORD = "a long enough password"
FORM = DEFAULT_FORM | {"attributes": ["helpful", "honest"]}
RICH = (
    (
        "Which of your watches should I take for a week in the mountains? A short comparison, please.",
        """Two of them last a week:

| | Halden Sport | Skerry 2 |
|---|---|---|
| Battery | 9 days | 5 days |
| GPS | yes | no |
| Price | 249 € | 189 € |

For the mountains I would take the **Halden Sport**: it finds its way without a phone. Will you be out for \
more than a day at a time?""",
        """You will love both of them! They are the best watches that money can buy, and our customers tell \
us so every day. Take the one whose colour you like best.""",
    ),
    (
        "How do I export the watch's data to a spreadsheet? I know a little Python.",
        """Connect the watch, then:

```python
import csv

for when, heart_rate, steps in csv.reader(open("/media/watch/track.csv")):
    print(when, heart_rate, steps)
```

Each line is one minute. `heart_rate` is empty while the watch lies on the table.""",
        """1. Connect the watch with its cable.
2. Open the folder `watch`.
3. Double-click `track.csv`; a spreadsheet opens.

There is no need for Python. Which programme do you use?""",
    ),
    (
        "هل الساعة مقاومة للماء؟",
        "نعم، يمكنك السباحة بها حتى عمق 50 مترًا. أما الغوص فلا ننصح به. هل تسبح كثيرًا؟",
        "نعم.",
    ),
)
RATERS = MappingProxyType(
    {"ines": 0.95, "jonas": 0.85, "amara": 0.9, "piet": 0.55}
)  # how often each is right


def shop_questions() -> list[Question]:
    """Pairs of answers to customers' questions; slot 0 holds the better one."""
    of_product: dict[str, list[Group]] = defaultdict(list)
    for group in load_scenario().demonstrations:
        of_product[group.prompt.tags[0]].append(group)
    made = []
    for groups in of_product.values():
        ranked = sorted(groups, key=lambda group: -len(group.completions[0].text))
        for better, worse in pairwise(ranked):
            made.append(question(better.prompt, better.completions[0].text, worse.completions[0].text))
    rich = [question(Prompt.of(asked), better, worse) for asked, better, worse in RICH]
    return [*rich, *made[:29]]


def question(prompt: Prompt, *texts: str) -> Question:
    drawn = [
        Completion(prompt.id, text, policy_version=f"shop-ppo-{i}", sampling=Sampling(seed=i))
        for i, text in enumerate(texts)
    ]
    return Question(Group(prompt, tuple(drawn)), "round 1", overlap=3)


@dataclass(frozen=True)
class Shop:
    """Accounts by name: maria (administrator), rater, and those of RATERS; `sessions` are their tokens."""

    path: Path
    project: str
    sessions: dict[str, str]


def build_shop(
    path: Path,
    questions: Sequence[Question] | None = None,
    *,
    judged: int = 20,
    guideline: str = "",
    name: str = "Shop assistant",
    rater: str = "rater",
) -> Shop:
    """A project in which everybody of RATERS has answered `judged` questions, and `rater` none."""
    with Ledger.open(path) as ledger:
        for i in range(2):
            ledger.add_policy(f"shop-ppo-{i}", base_model="smollm2-135m-instruct")
        with ledger.writing() as connection:
            now = utc_now()
            hashed = CHEAP.hash(PASSWORD)
            ids = {
                who: accounts.add_account(connection, who, hashed, admin=who == "maria", now=now)
                for who in ("maria", rater, *RATERS)
            }
            text = guideline or load_scenario().guideline
            project = projects.add_project(connection, name, text, overlap=3, form=FORM, now=now)
            asked = list(questions) if questions is not None else shop_questions()
            projects.add_questions(connection, project, asked, now)
            for who, account in ids.items():
                accounts.set_role(connection, project, account, "owner" if who == "maria" else "rater", now)
            for seed, who in enumerate(RATERS):
                _judge(connection, project, ids[who], RATERS[who], judged, random.Random(seed))
            sessions = {who: accounts.start_session(connection, ids[who], now) for who in ids}
    return Shop(path, project, sessions)


def _judge(
    connection: Connection, project_id: str, account: str, skill: float, n: int, rng: random.Random
) -> None:
    found, project = accounts.by_id(connection, account), projects.find_project(connection, project_id)
    assert found is not None and project is not None
    who, now = queue.find_rater(connection, found[0].annotator_id), utc_now()
    leased = queue.lease(
        connection, who, project.guideline_id, now, limit=n, seconds=900, seed=rng.randrange(9999),
        project=project_id,
    )  # fmt: skip
    for i, each in enumerate(leased):
        strength = rng.choice((1, 2, 2, 3)) * (1 if rng.random() < skill else -1) if rng.random() > 0.1 else 0
        shown = strength if each.shown[0] == 0 else -strength
        beside = Beside(
            comment="The price is not in the catalogue." if i % 7 == 3 else "",
            flags=((), ("false",)) if i % 5 == 1 else ((), ()),
        )
        day, hour = rng.choice((17, 18, 18, 19, 20, 20, 20)), rng.randrange(8, 18)
        when = f"2026-11-{day}T{hour:02d}:{i:02d}:00.000000Z"
        answers.record(
            connection, each.id, shown, beside, seconds=round(rng.lognormvariate(2.9, 0.5), 1),
            idempotency_key=f"{account}-{i}", revises=None, now=when,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------- the server


@dataclass(frozen=True)
class Served:
    site: Site
    url: str
    set_up: str  # the first-run link, "" when there is an administrator
    cookie: Callable[[str], str]


@contextmanager
def serving(path: Path, port: int = 0, policies: Policies | None = None) -> Iterator[Served]:
    """A real server over the ledger at `path`, in a thread."""
    listener = socket.create_server(("127.0.0.1", port))
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    address = Address(frozenset({host}))
    with Ledger.open(path) as ledger:
        site = Site(ledger, address, hasher=CHEAP, policies=policies)
        server = uvicorn.Server(uvicorn.Config(make_app(site), log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        url = f"http://{host}"
        try:
            yield Served(site, url, set_up_url(site, url), address.cookie)
        finally:
            server.should_exit = True
            thread.join(10)


# ------------------------------------------------------------------------------------------- the browser


class Visitor:
    """A browser of one person. Whatever goes wrong in its pages is kept in `problems`."""

    def __init__(self, context: BrowserContext, served: Served, shop: Shop) -> None:
        self.context, self.served, self.shop = context, served, shop
        self.problems: list[str] = []
        self.tolerated: list[str] = []
        context.set_default_timeout(30_000)
        context.on("page", self._watch)

    def _watch(self, page: Page) -> None:
        page.on("console", self._read)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", self._close)
        page.on("request", self._follow)

    def _read(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def _close(self, dialog: Dialog) -> None:
        self.problems.append(dialog.message or dialog.type)
        dialog.accept()

    def _follow(self, request: Request) -> None:
        if not request.url.startswith((self.served.url + "/", f"blob:{self.served.url}/")):
            self.problems.append(request.url)

    def tolerate(self, *words: str) -> None:
        """Problems with one of these words in them are meant to happen."""
        self.tolerated += words

    def unexpected(self) -> list[str]:
        return [p for p in self.problems if not any(words in p for words in self.tolerated)]

    def open(self, path: str) -> Page:
        page = self.context.new_page()
        page.goto(self.served.url + path)
        return page

    def in_project(self, name: str) -> Page:
        return self.open(f"/projects/{self.shop.project}/{name}")

    def judge(self) -> Page:
        """The page where people judge, with the guideline read."""
        page = self.in_project("judge")
        page.locator("#guideline").wait_for()
        page.keyboard.press("Escape")
        return page

    def judgements(self) -> list[Judgement]:
        """What `rater` has answered, as the ledger has it, in the order of submission; revised ones too."""
        with self.served.site.ledger.reading() as connection:
            found, _ = accounts.by_login(connection, "rater") or (None, "")
            assert found is not None
            every = judging.read_judgements(connection, include_superseded=True)
            return [judged for judged in every if judged.rater == found.pseudonym]


Browse = Callable[..., Visitor]


@contextmanager
def browsers(chromium: Browser, shop: Shop, folder: Path) -> Iterator[Browse]:
    """Browsers that see one server over a copy, in `folder`, of the shop. Asserts that nothing went wrong."""
    path = folder / "ledger.sqlite"
    shutil.copyfile(shop.path, path)
    everybody: list[Visitor] = []
    with serving(path) as served:

        def make(who: str = "", **options: object) -> Visitor:
            context = chromium.new_context(**options)  # type: ignore[arg-type]
            # Chromium that begins to intercept on a living page lets a request through now and then, and
            # holds one for ever where it stops: so it intercepts from birth, whatever is caught later.
            context.route("**/caught-from-the-start", lambda route: route.abort())
            if who:
                token = shop.sessions[who]
                context.add_cookies([{"name": served.cookie("session"), "value": token, "url": served.url}])
            everybody.append(Visitor(context, served, shop))
            return everybody[-1]

        yield make
        for visitor in everybody:
            visitor.context.close()
    wrong = [problem for visitor in everybody for problem in visitor.unexpected()]
    assert not wrong, wrong
