"""The process in which policies speak, and the line of raters who wait for an answer.

The app itself loads no model: `accord.stages.speak` does, in a process that starts with the first question
and ends with the app. One thread hands it one request after the other; who finds the line full is told so.
"""

from __future__ import annotations

import json
import logging
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accord.errors import ConfigError
from accord.records import Completion, Prompt, Sampling, content_hash

SPEAKER = (sys.executable, "-m", "accord.stages.speak")
LOADING_SECONDS = 600.0  # for a model to load
ANSWER_SECONDS = 300.0  # for two answers
STOPPING_SECONDS = 20.0  # for a model to notice that nobody wants its answer
MOST_WAITING = 8
REST_SECONDS = 10.0  # after models could not be loaded

EMBEDDED = ("embedded", "smollm2-135m-instruct")

log = logging.getLogger("accord.web")


def check_models(models: Sequence[str]) -> None:
    """Raises ConfigError for what cannot be a model; whether it is one shows when it is loaded."""
    for name in models:
        files = (Path(name).expanduser() / file for file in ("config.json", "adapter_config.json"))
        if name not in EMBEDDED and not any(file.is_file() for file in files):
            raise ConfigError(
                f"--policy {name}: no model's folder: it has neither config.json nor adapter_config.json; "
                "give the folder that training wrote, or 'embedded'"
            )


class SpeechError(Exception):
    """There is no answer, and why, in words for the person who waits. `code` as in the API's errors."""

    def __init__(self, code: str, message: str, *, retry_after: float = 0) -> None:
        super().__init__(message)
        self.code, self.message, self.retry_after = code, message, retry_after


@dataclass(frozen=True)
class Drawn:
    """Two answers to one prompt, and which model each policy version came from."""

    completions: tuple[Completion, ...]
    base_models: dict[str, str]


@dataclass(eq=False)
class Wish:
    """What one rater waits for. `keep` stores the answers and says what to reply."""

    account: str
    talk: str
    key: str
    turn: int
    text: str
    prompt: Prompt
    keep: Callable[[Drawn], Any]
    reply: Future[Any] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.reply.set_running_or_notify_cancel()  # a reader who leaves must not take the answer with her


@dataclass
class _Speaker:
    """A running process: what it said so far (None: it ended), and the policies that it loaded."""

    process: subprocess.Popen[str]
    lines: queue.Queue[str | None]
    policies: list[dict[str, str]] = field(default_factory=list)
    asked: int = 0

    def tell(self, message: dict[str, Any]) -> None:
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except (OSError, ValueError):
            pass  # it ended: the line that is read next says so


class Policies:
    """The project's own models, for talks. Nothing runs before the first `ask`."""

    def __init__(
        self,
        models: Sequence[str],
        sampling: Sampling | None = None,
        *,
        dtype: str = "auto",
        command: Sequence[str] = SPEAKER,
        patience: float = ANSWER_SECONDS,
    ) -> None:
        self.models, self.sampling = tuple(models), sampling or Sampling(max_new_tokens=256)
        self._command, self._patience = [*command, dtype, *models], patience
        self._line: list[Wish] = []  # the first one is being answered
        self._changed = threading.Condition()
        self._speaker: _Speaker | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._rest_until, self._told = 0.0, ""  # after a failure to load
        self._usual = 10.0  # seconds that an answer takes

    # What the app asks

    def ask(self, wish: Wish) -> Future[Any]:
        """Get in line; the same wish again gets the same reply. Raises SpeechError."""
        with self._changed:
            mine = self.wish_of(wish.account)
            if mine is not None:
                if (mine.talk, mine.key) == (wish.talk, wish.key):
                    return mine.reply
                raise SpeechError("conflict", "an answer to you is being written; wait for it, or cancel it")
            if self._closed:
                raise _stopping()
            if time.monotonic() < self._rest_until:
                wait = self._rest_until - time.monotonic()
                raise SpeechError("unavailable", self._told, retry_after=wait)
            if len(self._line) >= MOST_WAITING:
                wait = max(5.0, self._usual * len(self._line))
                said = f"{len(self._line)} people are waiting for the model; try again in {wait:.0f} s"
                raise SpeechError("unavailable", said, retry_after=wait)
            self._line.append(wish)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return wish.reply

    def wish_of(self, account: str) -> Wish | None:
        with self._changed:
            return next((wish for wish in self._line if wish.account == account), None)

    def place(self, wish: Wish) -> dict[str, Any]:
        """How long it has waited, how many come before it, and whether models are loading."""
        with self._changed:
            ahead = self._line.index(wish) if wish in self._line else 0
            ready = self._speaker is not None and bool(self._speaker.policies)
        return {"seconds": round(time.monotonic() - wish.since, 1), "ahead": ahead, "loading": not ready}

    def cancel(self, account: str, talk: str) -> bool:
        """Stop what this account waits for in this talk; whether there was something."""
        with self._changed:
            wish = self.wish_of(account)
            if wish is None or wish.talk != talk:
                return False
            wish.stopped.set()
            if self._line[0] is not wish:
                self._line.remove(wish)
                wish.reply.set_exception(_cancelled())
        return True

    def close(self) -> None:
        """End the process and tell everybody who waits. May be called twice, and from a signal's handler."""
        with self._changed:
            self._closed = True
            waiting, speaker = self._line[1:], self._speaker
            del self._line[1:]
            self._changed.notify_all()
        for wish in waiting:
            wish.reply.set_exception(_stopping())
        if speaker is not None:
            _end(speaker)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5)

    # The thread that speaks with the process

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._line and not self._closed:
                    self._changed.wait()
                if not self._line:
                    return
                wish = self._line[0]
            reply, failed = None, None
            try:
                reply = wish.keep(self._answer(wish))
            except Exception as error:  # the ledger's refusals, too, are for the one who asked
                failed = error
            with self._changed:
                self._line.pop(0)
            if failed is None:
                wish.reply.set_result(reply)
            else:
                wish.reply.set_exception(failed)

    def _answer(self, wish: Wish) -> Drawn:
        speaker = self._running(wish)
        begun = time.monotonic()
        speaker.asked += 1
        request = {
            "id": speaker.asked,
            "messages": [[m.role, m.content] for m in wish.prompt.messages],
            "draws": _draws(len(speaker.policies), wish),
            "sampling": {k: v for k, v in asdict(self.sampling).items() if k != "seed"},
        }
        speaker.tell(request)
        reply = self._read(speaker, wish, self._patience)
        if wish.stopped.is_set():
            raise _cancelled()
        if "error" in reply:
            raise _explained(reply, wish)
        self._usual += 0.3 * (time.monotonic() - begun - self._usual)
        bases = {policy["version"]: policy["base_model"] for policy in speaker.policies}
        return Drawn(tuple(_completion(row) for row in reply["answers"]), bases)

    def _running(self, wish: Wish) -> _Speaker:
        """The process, started if need be, with its models loaded."""
        with self._changed:
            if self._closed:
                raise _stopping()
            if self._speaker is None or self._speaker.process.poll() is not None:
                self._speaker = _start(self._command)
            speaker = self._speaker
        if speaker.policies:
            return speaker
        reply = self._read(speaker, wish, LOADING_SECONDS)
        if "policies" not in reply:
            log.error("policies cannot be loaded: %s", reply.get("failed"))
            _end(speaker)
            self._told = "the project's models cannot be loaded; tell whoever runs this server"
            self._rest_until = time.monotonic() + REST_SECONDS
            raise SpeechError("unavailable", self._told, retry_after=REST_SECONDS)
        speaker.policies = reply["policies"]
        return speaker

    def _read(self, speaker: _Speaker, wish: Wish, seconds: float) -> dict[str, Any]:
        """The next reply, unless the process ends, takes too long or is not wanted any more."""
        until, told = time.monotonic() + seconds, False
        while True:
            if wish.stopped.is_set() and not told:
                if not speaker.policies:
                    raise _cancelled()  # the models go on loading for the next one
                speaker.tell({"cancel": speaker.asked})
                until, told = time.monotonic() + STOPPING_SECONDS, True
            try:
                line = speaker.lines.get(timeout=0.05)
            except queue.Empty:
                if time.monotonic() < until:
                    continue
                _end(speaker)
                if told:
                    raise _cancelled() from None
                said = f"the model took longer than {seconds:.0f} s and was stopped; try a shorter message"
                raise SpeechError("unavailable", said, retry_after=5) from None
            if line is None:
                raise self._ended(speaker)
            return json.loads(line)  # type: ignore[no-any-return]

    def _ended(self, speaker: _Speaker) -> SpeechError:
        if self._closed:
            return _stopping()
        status = speaker.process.wait()
        log.error("the process of the policies ended with status %s", status)
        killed = "was killed, perhaps for want of memory" if status == -9 else f"ended ({status})"
        said = f"the model's process {killed}; send your message again: a fresh one starts"
        return SpeechError("unavailable", said, retry_after=2)


def _draws(policies: int, wish: Wish) -> list[list[int]]:
    """Which policy gives which answer, with the seed of each: two of them, drawn anew for each turn."""
    chosen = secrets.SystemRandom().sample(range(policies), min(2, policies))
    return [[policy, turn_seed(wish.talk, wish.turn, sample)] for sample, policy in enumerate(chosen)]


def turn_seed(talk: str, turn: int, sample: int) -> int:
    return int(content_hash(["talk", talk, turn, sample])[:8], 16)


def _completion(row: dict[str, Any]) -> Completion:
    sampling = Sampling(**row["sampling"])
    lists = {"token_ids": tuple(row["token_ids"]), "logps": tuple(row["logps"])}
    return Completion(**{**row, **lists, "sampling": sampling})


def _explained(reply: dict[str, Any], wish: Wish) -> SpeechError:
    """The process's error for a person; what it said itself is for the log."""
    kind = reply["error"]
    if kind == "stopped":
        return _cancelled()
    if kind == "too_long":
        return SpeechError("conflict", "the talk is too long for this model; shorten this, or start another")
    log.error("a policy could not answer talk %s: %s", wish.talk, reply["message"])
    said = {"memory": "the model ran out of memory; try a shorter message"}
    usual = "the model could not answer; the server's log says why"
    return SpeechError("unavailable", said.get(kind, usual), retry_after=10)


def _cancelled() -> SpeechError:
    return SpeechError("cancelled", "cancelled: nothing was stored")


def _stopping() -> SpeechError:
    return SpeechError("unavailable", "the server is being stopped; try again soon", retry_after=5)


def _start(command: Sequence[str]) -> _Speaker:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
        start_new_session=True,  # Ctrl-C in a terminal is for the app, which then ends this process
    )  # fmt: skip
    speaker = _Speaker(process, queue.Queue())

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            speaker.lines.put(line)
        speaker.lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    return speaker


def _end(speaker: _Speaker) -> None:
    speaker.process.terminate()
    try:
        speaker.process.wait(3)
    except subprocess.TimeoutExpired:
        speaker.process.kill()
        speaker.process.wait()
