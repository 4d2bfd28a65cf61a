"""The commands. Nothing heavy is imported until a command needs it.

Every stage takes its settings as `--config FILE.yaml`, as `--name VALUE` (nested: `--kl.coef 0.1`), or both;
flags win. Errors that are the user's to mend are one line and exit status 2; `--debug` shows the traceback.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from accord import __version__
from accord.errors import AccordError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

app = typer.Typer(
    help="The whole loop of reinforcement learning from human feedback.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
FREE = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

# command -> (settings, module that runs it, one line of help)
STAGES = {
    "sft": ("SftConfig", "sft", "Fine-tune a model on demonstrations."),
    "sample": ("SampleConfig", "sample", "Sample several answers per prompt from a policy."),
    "ask": ("AskConfig", "ask", "Put pairs of answers to raters: a simulated panel, or you at the terminal."),
    "reward": ("RewardConfig", "reward", "Fit a reward model on preferences and print its report card."),
    "ppo": ("PpoConfig", "online", "Improve a policy by PPO against a reward model."),
    "eval": ("EvalConfig", "evaluate", "Compare two policies on held-out prompts."),
}


def main() -> None:
    """Entry point: runs a command and turns errors into one line and a status."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        app(arguments, prog_name="accord", standalone_mode=False)
    except AccordError as error:
        if debug:
            raise
        _fail(str(error))
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped", status=130)
    except OSError as error:
        if debug:
            raise
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}")


def _fail(message: str, status: int = 2) -> None:
    print(f"accord: {message}", file=sys.stderr)
    sys.exit(status)


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _settings(schema: type[BaseModel], arguments: list[str]) -> Any:
    from accord.config import read_config

    path: Path | None = None
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        item = queue.pop(0)
        if item == "--config" and queue:
            path = Path(queue.pop(0))
        elif item.startswith("--config="):
            path = Path(item.removeprefix("--config="))
        else:
            rest.append(item)
    return read_config(schema, path, rest)


def _print_settings(command: str, text: str, schema: type[BaseModel]) -> None:
    from rich.console import Console
    from rich.table import Table

    from accord.config import describe

    console = Console()
    console.print(
        f"[bold]accord {command}[/bold] [--config FILE.yaml] [--name VALUE ...] [--debug]\n\n{text}\n"
    )
    table = Table("setting", "default", "", box=None, header_style="bold", pad_edge=False)
    for name, kind, default, description in describe(schema):
        table.add_row(f"--{name}", default, description or f"[dim]{kind}")
    console.print(table)


def _stage_command(name: str, schema_name: str, module: str, text: str) -> Callable[[typer.Context], None]:
    def command(context: typer.Context) -> None:
        import importlib

        from accord import config

        schema = getattr(config, schema_name)
        if not context.args or {"--help", "-h"} & set(context.args):
            _print_settings(name, text, schema)
            return
        settings = _settings(schema, context.args)
        result = importlib.import_module(f"accord.stages.{module}").run(settings, _console())
        print(json.dumps(result, indent=1, ensure_ascii=False))

    command.__doc__ = text
    return command


for _name, (_schema, _module, _text) in STAGES.items():
    app.command(_name, context_settings=FREE, help=_text)(_stage_command(_name, _schema, _module, _text))


@app.command(context_settings=FREE)
def quickstart(context: typer.Context) -> None:
    """One complete round of RLHF on the embedded model: about a quarter of an hour, then a report."""
    from accord.loop import quickstart_file

    _run_loop("quickstart", context.args, quickstart_file())


@app.command("run", context_settings=FREE)
def run_file(context: typer.Context) -> None:
    """Drive the loop of a FILE.yaml: rounds of sample, ask, reward, improve, check."""
    arguments = list(context.args)
    file = Path(arguments.pop(0)) if arguments and not arguments[0].startswith("--") else None
    _run_loop("run FILE.yaml", arguments, file)


def _run_loop(command: str, arguments: list[str], file: Path | None) -> None:
    from accord.config import RunConfig, read_config

    if {"--help", "-h"} & set(arguments) or (file is None and not arguments):
        _print_settings(
            command, "The whole loop; the settings of a stage are --STAGE.NAME, as in --ppo.k 8.", RunConfig
        )
        return
    settings = read_config(RunConfig, file, arguments)
    console = _console()
    from accord.loop.rounds import run

    report = run(settings, console)
    console.print(f"\nThe report is at [bold]{report}[/bold] (numbers: {report.with_suffix('.json')})")


@app.command()
def report(run_folder: Annotated[Path, typer.Argument(help="folder of a finished run")]) -> None:
    """Write a finished run's report again."""
    from accord.loop.rounds import rewrite_report

    print(rewrite_report(run_folder))


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="a model's folder, hub id, or 'embedded'")],
    system: Annotated[str, typer.Option(help="system message")] = "",
    temperature: float = 0.7,
    max_new_tokens: int = 200,
    seed: int = 0,
) -> None:
    """Talk to a model in the terminal (empty line or Ctrl-D to leave)."""
    from accord.stages.chat import run

    run(model, _console(), system=system, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)


@app.command()
def agreement(
    file: Path,
    unit: Annotated[str, typer.Option(help="column: what was rated")],
    rater: Annotated[str, typer.Option(help="column: who rated it")],
    value: Annotated[str, typer.Option(help="column: the rating; empty cells are missing")],
    level: Annotated[str, typer.Option(help="nominal, ordinal, interval or ratio")] = "nominal",
    bootstrap: Annotated[int, typer.Option(help="resamples for the interval; 0 for none", min=0)] = 2000,
    seed: int = 0,
) -> None:
    """Krippendorff's alpha and raw agreement of a CSV file, as JSON."""
    from accord.errors import ConfigError
    from accord.feedback import agreement as statistics

    levels = ("nominal", "ordinal", "interval", "ratio")
    if level not in levels:
        raise ConfigError(f"--level {level}: unknown; it is one of {', '.join(levels)}")
    ratings = statistics.read_ratings_csv(file, unit, rater, value, level)  # type: ignore[arg-type]
    found = statistics.agreement(ratings, level=level, n_boot=bootstrap, seed=seed)  # type: ignore[arg-type]
    print(json.dumps(found.to_json(), indent=1))


@app.command()
def check(
    data: Annotated[str, typer.Argument(help="a file, a folder or a hub name")],
    kind: Annotated[
        str, typer.Option(help="preferences, demonstrations, prompts or unpaired")
    ] = "preferences",
    strict: Annotated[bool, typer.Option(help="stop at the first bad row")] = False,
) -> None:
    """Read a data set, count its rows, and list every row that cannot be used, with file and line."""
    from accord.data import datasets
    from accord.errors import ConfigError

    loaders = {
        "preferences": datasets.load_preferences,
        "demonstrations": datasets.load_demonstrations,
        "prompts": datasets.load_prompts,
        "unpaired": datasets.load_unpaired,
    }
    if kind not in loaders:
        raise ConfigError(f"--kind {kind}: unknown; it is one of {', '.join(loaders)}")
    loaded = loaders[kind](data, strict=strict)
    for problem in loaded.problems:
        print(f"{problem.file}:{problem.line}: {problem.what}")
    print(loaded.summary())


@app.command()
def verify(ledger: Annotated[str, typer.Argument(help="ledger file or URL")]) -> None:
    """Recompute every hash of a ledger and say whether anything in it was changed or lost."""
    from accord.errors import LedgerError
    from accord.ledger.ledger import Ledger

    with Ledger.open(ledger, create=False) as store:
        found = store.verify()
    for name, count in found.counts.items():
        print(f"{count:8d} {name}")
    if not found.ok:
        raise LedgerError(f"{ledger}: " + "; ".join(found.problems))
    print("everything is as it was written")


@app.command("fetch-model")
def fetch_model() -> None:
    """Fetch the embedded model into the user's cache, once."""
    from accord.models.embedded import fetch_embedded

    print(fetch_embedded())


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)
