"""Speaks the protocol of accord.stages.speak without a model: what it does depends on what it is told.

slow N: answers after N seconds; deaf: never answers, not even to a cancel; crash, memory, long: fails so;
same: two equal answers. Anything else, with HOSTILE in it or not, comes back in both answers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

cancelled: set[int] = set()
requests: list[dict[str, object]] = []


def listen() -> None:
    for line in sys.stdin:
        told = json.loads(line)
        if "cancel" in told:
            cancelled.add(told["cancel"])
        else:
            requests.append(told)
    os._exit(0)


def reply(value: object) -> None:
    print(json.dumps(value), flush=True)


def act(request: dict) -> dict:
    said = request["messages"][-1][1]
    word, _, number = said.partition(" ")
    if word == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if word in ("memory", "long"):
        return {"error": {"memory": "memory", "long": "too_long"}[word], "message": "secret detail"}
    until = time.monotonic() + (float(number) if word == "slow" else 3600 if word == "deaf" else 0)
    while time.monotonic() < until:
        if request["id"] in cancelled and word != "deaf":
            return {"error": "stopped", "message": "stopped"}
        time.sleep(0.01)
    draws = request["draws"] * (2 if len(request["draws"]) == 1 else 1)
    return {"answers": [answer(request, said, *draw, index) for index, draw in enumerate(draws)]}


def answer(request: dict, said: str, policy: int, seed: int, index: int) -> dict:
    same = said.startswith("same")
    return {
        "prompt_id": prompt_id(request["messages"]),
        "text": said if same else f"{said} ({('one', 'two')[index]})",
        "token_ids": [1, 2, 3 + index],
        "logps": [-0.1, -0.25, -1 / 3],
        "policy_version": names[policy] + "@stub",
        "sampling": {**request["sampling"], "seed": seed},
        "finish_reason": "stop",
        "index": index,
    }


def prompt_id(messages: list) -> str:
    import hashlib

    text = json.dumps(messages, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


dtype, *names = sys.argv[1:]
if "broken" in names:
    reply({"failed": "secret path: no such folder"})
    sys.exit()
reply({"policies": [{"version": f"{name}@stub", "base_model": name} for name in names]})
threading.Thread(target=listen, daemon=True).start()
while True:
    while not requests:
        time.sleep(0.005)
    asked = requests.pop(0)
    reply({"id": asked["id"], **act(asked)})
