"""Policies that answer in the annotation app, in a process of their own (`python -m accord.stages.speak`).

JSON lines both ways, and nothing else on stdout. First `{"policies": [{"version", "base_model"}, ...]}` once
the models are loaded. Then for each `{"id", "messages", "draws", ...Sampling}` on stdin one
`{"id", "answers"}` or `{"id", "error", "message"}`, in the order of asking; `{"cancel": id}` ends one that
waits or is under way. The process ends with its stdin, so it never outlives the app.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from queue import SimpleQueue
from typing import Any, TextIO

from torch import nn

from accord.data.render import Renderer
from accord.errors import AccordError, DataError
from accord.models.device import on_device
from accord.models.load import load_model
from accord.records import Completion, Message, Prompt, Sampling
from accord.rollout.local import LocalSampler
from accord.stages.sample import policy_version

REDRAWS = 4  # samples among which a second answer is looked for that differs from the first


class StoppedError(Exception):
    """Somebody does not want the answer any more."""


class Requests:
    """What was asked on stdin, read by a thread of its own, so that a stop is heard while a model speaks."""

    def __init__(self, lines: TextIO) -> None:
        self.waiting: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._stopped: set[int] = set()
        self._lines = lines
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._lines:
            request = json.loads(line)
            if "cancel" in request:
                self._stopped.add(request["cancel"])
            else:
                self.waiting.put(request)
        os._exit(0)  # the app is gone: nobody would read the answer

    def check(self, request_id: int) -> None:
        if request_id in self._stopped:
            raise StoppedError


def load(names: Sequence[str], dtype: str) -> list[LocalSampler]:
    """One sampler for each version; a model that was named twice is there once."""
    found: dict[str, LocalSampler] = {}
    for name in names:
        loaded = load_model(name, dtype=dtype)
        version = policy_version(name, loaded.source)
        found[version] = LocalSampler(
            loaded.model, Renderer(loaded.tokenizer), policy_version=version, rows=REDRAWS
        )
    return list(found.values())


def draw(samplers: Sequence[LocalSampler], request: dict[str, Any]) -> list[Completion]:
    """Two answers: of one policy its first two that differ, of two policies the first of each."""
    prompt = Prompt(tuple(Message(role, content) for role, content in request["messages"]))
    draws = [(samplers[i], Sampling(**request["sampling"], seed=seed)) for i, seed in request["draws"]]
    if len(draws) > 1:
        return [sampler.sample([prompt], 1, sampling)[0].completions[0] for sampler, sampling in draws]
    sampler, sampling = draws[0]
    for k in (2, REDRAWS):
        first, *others = sampler.sample([prompt], k, sampling)[0].completions
        second = next((other for other in others if other.text != first.text), None)
        if second is not None:
            break
    return [first, second or others[0]]


def answer(samplers: Sequence[LocalSampler], requests: Requests, request: dict[str, Any]) -> dict[str, Any]:
    def check(module: nn.Module, inputs: object) -> None:
        requests.check(request["id"])

    models = {id(s.model): s.model for s in samplers}.values()
    hooks = [model.register_forward_pre_hook(check) for model in models]  # so before each token
    try:
        requests.check(request["id"])
        return {"answers": [asdict(completion) for completion in draw(samplers, request)]}
    except StoppedError:
        return {"error": "stopped", "message": "stopped"}
    except DataError as error:
        return {"error": "too_long" if "context" in str(error) else "failed", "message": str(error)}
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        memory = isinstance(error, MemoryError) or "memory" in str(error).lower()
        return {"error": "memory" if memory else "failed", "message": f"{type(error).__name__}: {error}"}
    except Exception as error:  # one request's defect must not end the others'
        return {"error": "failed", "message": f"{type(error).__name__}: {error}"}
    finally:
        for hook in hooks:
            hook.remove()


def main(arguments: Sequence[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the app, which then closes stdin
    # Whatever a library prints must not come between the lines.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    requests = Requests(os.fdopen(os.dup(0), "r", encoding="utf-8"))
    dtype, *names = arguments

    def reply(value: dict[str, Any]) -> None:
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    try:
        with on_device("auto"):
            samplers = load(names, dtype)
    except AccordError as error:
        reply({"failed": " ".join(str(error).split())})
        return
    versions = [s.policy_version for s in samplers]
    reply({"policies": [{"version": v, "base_model": v.partition("@")[0]} for v in versions]})
    while True:
        request = requests.waiting.get()
        reply({"id": request["id"], **answer(samplers, requests, request)})


if __name__ == "__main__":
    main(sys.argv[1:])
