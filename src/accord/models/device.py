"""Where the models are: on a GPU if there is one, else on the CPU.

A run works inside `on_device`: it makes every new tensor on the run's device, so nothing else in the project
names one. What must be equal on every device (random weights, shuffled orders) is drawn on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch

from accord.errors import ConfigError
from accord.models.memory import give_back, share

P = ParamSpec("P")
R = TypeVar("R")


class Placed(Protocol):
    @property
    def device(self) -> str: ...


C = TypeVar("C", bound=Placed)


def pick(wanted: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda"; each of several processes on a machine has a GPU of its own.

    Raises ConfigError when a GPU is wanted and this torch finds none.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}"
        why = f"{built}, but finds no device" if torch.version.cuda else "this torch is built without CUDA"
        raise ConfigError(f"device: cuda is asked for, and {why}; set device to auto or cpu")
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise ConfigError(
            f"this machine has {there} GPUs, and process {number + 1} finds none for itself; start "
            f"{there} processes, or set device to cpu"
        )
    return torch.device("cuda", number)


@contextmanager
def on_device(wanted: str) -> Iterator[None]:
    """New tensors are on this device inside the block. Raises ConfigError as `pick` does."""
    device = pick(wanted)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with device:
        yield


def on_its_device(run: Callable[Concatenate[C, P], R]) -> Callable[Concatenate[C, P], R]:
    """Run a stage on the device that its settings name."""

    @wraps(run)
    def placed(config: C, *args: P.args, **kwargs: P.kwargs) -> R:
        share()
        give_back()  # what the stage before it left behind
        with on_device(config.device):
            return run(config, *args, **kwargs)

    return placed


def on_cpu() -> Any:
    """Inside the block new tensors are on the CPU again."""
    return torch.device("cpu")


def here() -> torch.device:
    """The device of new tensors."""
    return torch.get_default_device()
