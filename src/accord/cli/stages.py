"""The stages and the loop as commands: their settings come from a file, from flags, or both."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accord import STAGES
from accord.cli.app import app, make_console, print_json
from accord.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel

FREE = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
HELP = ("--help", "-h")

STAGE_HELP = {
    "pretrain": "Train on plain text: from scratch, or going on from a model.",
    "sft": "Fine-tune a model on demonstrations.",
    "sample": "Sample several answers per prompt from a policy.",
    "ask": "Put pairs of answers to simulated raters, or to you.",
    "reward": "Fit a reward or cost model on preferences, rankings, scores ...",
    "dpo": "Improve a policy from preferences: DPO.",
    "cdpo": "DPO where some labels are wrong: no pair is sure.",
    "robust-dpo": "DPO where some labels are wrong: corrected for them.",
    "ipo": "Improve a policy from preferences: IPO, a bounded DPO.",
    "kto": "Improve a policy from answers found good or bad: KTO.",
    "orpo": "Fine-tune and learn preferences at once: ORPO.",
    "simpo": "Improve a policy from preferences, no reference: SimPO.",
    "cpo": "Improve a policy from preferences, no reference: CPO.",
    "ppo": "Improve a policy by PPO against a reward model.",
    "ppo-lagrangian": "PPO within a limit on cost (Safe RLHF).",
    "grpo": "Improve a policy without a critic: GRPO, Dr. GRPO, DAPO, GSPO.",
    "rloo": "Improve a policy without a critic: leave-one-out REINFORCE.",
    "reinforce++": "Improve a policy without a critic or siblings: REINFORCE++.",
    "online-dpo": "Improve a policy by DPO on its own best and worst answers.",
    "xpo": "Online DPO that explores what the reference hardly says.",
    "best-of-n": "Keep the best of n answers; fine-tune on them if asked to.",
    "eval": "Compare two policies on held-out prompts.",
}


def _settings(schema: type[BaseModel], arguments: Sequence[str], file: Path | None = None) -> Any:
    """Settings from `--config FILE` (or `file`) and flags."""
    from accord.config import read_config

    rest: list[str] = []
    queue = list(arguments)
    while queue:
        item = queue.pop(0)
        name, equals, value = item.partition("=")
        if name != "--config":
            rest.append(item)
            continue
        if not equals and not queue:
            raise ConfigError("--config needs the path of a YAML file")
        file = Path(value if equals else queue.pop(0))
    return read_config(schema, file, rest)


def _print_settings(usage: str, text: str, schema: type[BaseModel]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from accord.config import describe

    console = Console(highlight=False)
    console.print(
        f"[bold]accord {usage}[/bold] {escape('[--config FILE.yaml] [--name VALUE ...] [--debug]')}"
    )
    console.print(f"\n{text}\n")
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("default", overflow="fold")
    table.add_column("")
    for name, kind, default, description in describe(schema):
        table.add_row(f"--{name}", escape(default), escape(description) or f"[dim]{escape(kind)}")
    console.print(table)


def _stage_command(name: str) -> Callable[[typer.Context], None]:
    def command(context: typer.Context) -> None:
        from accord import config

        schema_name, module = STAGES[name]
        schema = getattr(config, schema_name)
        if not context.args or set(HELP) & set(context.args):
            _print_settings(name, STAGE_HELP[name], schema)
            return
        settings = _settings(schema, context.args)
        print_json(importlib.import_module(module).run(settings, make_console()))

    return command


for _name, _text in STAGE_HELP.items():
    app.command(_name, context_settings=FREE, help=_text)(_stage_command(_name))


@app.command(context_settings=FREE)
def quickstart(context: typer.Context) -> None:
    """One round of the whole loop on the embedded model."""
    from accord.loop import quickstart_file

    _run_loop("quickstart", context.args, quickstart_file())


@app.command("run", context_settings=FREE)
def run_file(context: typer.Context) -> None:
    """Drive the loop of a FILE.yaml, round after round."""
    arguments = list(context.args)
    file = Path(arguments.pop(0)) if arguments and not arguments[0].startswith("-") else None
    _run_loop("run FILE.yaml", arguments, file)


def _run_loop(usage: str, arguments: list[str], file: Path | None) -> None:
    from accord.config import RunConfig

    if set(HELP) & set(arguments) or (file is None and not arguments):
        text = (
            "The whole loop. A stage's settings are --STAGE.NAME, as in --ppo.k 8; `accord ppo` lists them."
        )
        _print_settings(usage, text, RunConfig)
        return
    settings = _settings(RunConfig, arguments, file)
    from accord.loop.rounds import run

    console = make_console()
    path = run(settings, console)
    console.print(f"\nOpen [bold]{path}[/bold] in a browser to see what happened.")
    _print_report(path)


@app.command()
def report(run_folder: Annotated[Path, typer.Argument(help="folder of a finished run")]) -> None:
    """Write a finished run's report again."""
    from accord.loop.rounds import rewrite_report

    _print_report(rewrite_report(run_folder))


def _print_report(path: Path) -> None:
    print_json({"report": str(path), "numbers": str(path.with_suffix(".json"))})
