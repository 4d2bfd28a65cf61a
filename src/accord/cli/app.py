"""What all commands share: the application that they join, and where they print."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import typer

from accord import is_follower

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="The whole loop of reinforcement learning from human feedback.",
    epilog="Each command has its own --help. With --debug, errors show where they came from.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def make_console() -> Console:
    from rich.console import Console

    return Console(stderr=True, quiet=is_follower())


def print_json(value: Any) -> None:
    """Strict JSON on stdout: NaN and infinity, which JSON does not have, become null."""
    if is_follower():
        return
    print(json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
