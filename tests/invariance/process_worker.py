"""One of several processes in test_processes.py: `accord` with a fault planted, or a list of jobs."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import torch

import accord
from accord.cli import main
from accord.errors import DataError
from accord.rollout.local import LocalSampler
from accord.training.distributed import group, spread, world
from accord.training.engine import Engine


class StopHereError(Exception):
    """The end of a run that is to be continued by others."""


def after(steps: int, fault: BaseException | None) -> None:
    """From now on an engine's step number `steps` (from 0) fails; without a fault the process is killed."""
    own, done = Engine.step, []

    def step(self: Engine, *args: Any, **kwargs: Any) -> dict[str, float]:
        if len(done) == steps:
            if fault is None:
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                raise fault
        done.append(1)
        return own(self, *args, **kwargs)

    Engine.step = step  # type: ignore[method-assign]
    after.undo = lambda: setattr(Engine, "step", own)  # type: ignore[attr-defined]


def jobs(path: str) -> None:
    sampled = []
    sample = LocalSampler.sample

    def counted(self: LocalSampler, prompts: Any, *rest: Any, **named: Any) -> Any:
        sampled.append(len(prompts))
        return sample(self, prompts, *rest, **named)

    LocalSampler.sample = counted  # type: ignore[method-assign]
    with group(), open(path) as file:
        assert spread(range(5), lambda own: [i * i for i in own]) == [0, 1, 4, 9, 16]
        for job in json.load(file):
            stop = job.pop("stop_after", None)
            if stop is not None:
                after(stop, StopHereError())
            try:
                getattr(accord, job.pop("stage"))(quiet=True, **job)
            except StopHereError:
                after.undo()  # type: ignore[attr-defined]
        with open(f"{path}.sampled-{world()[0]}", "w") as told:
            json.dump(sampled, told)
    sys.stdout.flush()
    os._exit(0)  # as `accord` leaves where it is one of several processes


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, *rest = sys.argv[1:]
    if kind == "jobs":
        jobs(*rest)
    else:
        if os.environ["RANK"] == "1":
            after(1, DataError("the planted fault") if kind == "fail" else None)
        main(rest)
