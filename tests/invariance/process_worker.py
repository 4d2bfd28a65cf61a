"""One of several processes in test_processes.py: `accord`, a fault planted or not, or a list of jobs."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import torch
from torch.distributed.tensor import DTensor

import accord
from accord.cli import main
from accord.errors import DataError
from accord.rollout.local import LocalSampler
from accord.stages import common
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
    sampled: list[int] = []
    kept: list[tuple[int, int]] = []  # numbers of the split weights: this process's part, and all
    sample, shard = LocalSampler.sample, common.shard

    def weighed(model: Any, device: torch.device) -> None:
        shard(model, device)
        parts = [p for p in model.parameters() if isinstance(p, DTensor)]
        kept.append((sum(p.to_local().numel() for p in parts), sum(p.numel() for p in parts)))

    def counted(self: LocalSampler, prompts: Any, *rest: Any, **named: Any) -> Any:
        sampled.append(len(prompts))
        return sample(self, prompts, *rest, **named)

    LocalSampler.sample, common.shard = counted, weighed  # type: ignore[method-assign]
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
        for name, numbers in (("sampled", sampled), ("kept", kept)):
            with open(f"{path}.{name}-{world()[0]}", "w") as told:
                json.dump(numbers, told)
    sys.stdout.flush()
    os._exit(0)  # as `accord` leaves where it is one of several processes


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, *rest = sys.argv[1:]
    if kind == "jobs":
        jobs(*rest)
    else:
        if os.environ["RANK"] == "1" and kind != "main":
            after(1, DataError("the planted fault") if kind == "fail" else None)
        main(rest)
