"""The commands. Nothing heavy is imported until a command needs it.

Every stage takes its settings as `--config FILE.yaml`, as `--name VALUE` (nested: `--kl.coef 0.1`), or both;
flags win. Results go to stdout as JSON, progress to stderr. An error that is the user's to mend is one line
and exit status 2 (`--debug` shows the traceback); a run stopped by Ctrl-C ends with 130.
"""

from __future__ import annotations

import errno
import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from accord import STAGES, __version__, is_follower, processes
from accord.errors import AccordError, ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

    from accord.data.datasets import Loaded

app = typer.Typer(
    help="The whole loop of reinforcement learning from human feedback.",
    epilog="Each command has its own --help. With --debug, errors show where they came from.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
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

# The base of usage errors, whether this typer carries a copy of click or uses the package.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point: runs a command and turns errors into one line and an exit status."""
    try:
        _main(arguments)
    except SystemExit as leaving:
        if sys.modules.get("accord.training.distributed") and os.environ.get("WORLD_SIZE", "1") != "1":
            # Threads of the communication library that still wind down can abort Python's own shutdown.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(leaving.code or 0))
        raise


def _main(arguments: Sequence[str] | None) -> NoReturn:
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in given
    command = next((a for a in given if a != "--debug"), "--help")
    if not command.startswith("-") and command not in commands():
        print(_unknown(command), file=sys.stderr)
        sys.exit(2)
    try:
        with nullcontext() if command.startswith("-") else processes(command):
            status = app([a for a in given if a != "--debug"], prog_name="accord", standalone_mode=False)
    except Exception as error:
        line, status = _explain(error)
        if _told_elsewhere(error) and not debug:
            sys.exit(2)
        if not line:
            raise  # a defect of Accord: the traceback is what its report needs
        if debug:
            import traceback

            traceback.print_exception(error)
        print(f"accord: {line}", file=sys.stderr)
        sys.exit(status)
    if status == 130:  # typer's word for Ctrl-C
        print("accord: stopped", file=sys.stderr)
    sys.exit(status if isinstance(status, int) else 0)


def commands() -> dict[str, str]:
    """Every command, with the one line that says what it does."""
    found = {}
    for command in app.registered_commands:
        assert command.callback is not None
        text = command.help or command.callback.__doc__ or ""
        found[command.name or command.callback.__name__] = text.strip().splitlines()[0]
    return found


def _unknown(command: str) -> str:
    """The one error of several lines: which commands there are, and the one that was meant first."""
    import difflib

    known = commands()
    close = difflib.get_close_matches(command.lower().replace("_", "-"), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "there are:"
    lines = [f"accord: no command {command!r}; {hint}", *(f"  {n:<14} {text}" for n, text in known.items())]
    return "\n".join(lines)


def _told_elsewhere(error: Exception) -> bool:
    """Whether another process of this run is the one that says what went wrong."""
    training = sys.modules.get("accord.training.distributed")
    if training is None:  # not even joined: all processes meet the same error
        return is_follower()
    return isinstance(error, training.PeerFailedError)


def _explain(error: Exception) -> tuple[str, int]:
    """One line that says what to do, and the exit status; an empty line for what no user can mend."""
    training = sys.modules.get("accord.training.run")  # without it nothing was there to interrupt
    if training is not None and isinstance(error, training.InterruptedRunError):
        return str(error), 130
    if isinstance(error, AccordError):
        return " ".join(str(error).split()), 2
    if isinstance(error, UsageError):
        where = error.ctx.command_path if getattr(error, "ctx", None) else "accord"  # type: ignore[attr-defined]
        return f"{error.format_message()} See `{where} --help`.", 2  # type: ignore[attr-defined]
    if isinstance(error, typer.Abort):
        if isinstance(error.__cause__, EOFError):
            return "the input ended; what was answered is kept, and the same command goes on from there", 2
        return "stopped", 130
    # safetensors reports a full disk as an error of its own kind
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        where = getattr(error, "filename", None) or "the disk"
        return f"{where}: no space left; make room and run the same command again", 2
    if isinstance(error, OSError):
        return (
            f"{error.filename or 'the system'}: {error.strerror or error}; check the path and its rights",
            2,
        )
    return "", 1


def _console() -> Console:
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


# ------------------------------------------------------------------------------------------- the stages


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
        print_json(importlib.import_module(module).run(settings, _console()))

    return command


for _name, _text in STAGE_HELP.items():
    app.command(_name, context_settings=FREE, help=_text)(_stage_command(_name))


# --------------------------------------------------------------------------------------------- the loop


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
    console = _console()
    from accord.loop.rounds import run

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


# ------------------------------------------------------------------------------------------- the others


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="a model's folder, a hub id, or 'embedded'")],
    system: Annotated[str, typer.Option(help="system message")] = "",
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer, in tokens")] = 200,
    seed: Annotated[int, typer.Option(help="the same seed gives the same answers")] = 0,
) -> None:
    """Talk to a model in the terminal (an empty line leaves)."""
    from rich.console import Console

    from accord.stages.chat import run

    run(model, Console(), system=system, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)


@app.command()
def agreement(
    file: Annotated[Path, typer.Argument(help="CSV with one rating a row")],
    unit: Annotated[str, typer.Option(help="column: what was rated")],
    rater: Annotated[str, typer.Option(help="column: who rated it")],
    value: Annotated[str, typer.Option(help="column: the rating; empty cells are missing")],
    level: Annotated[str, typer.Option(help="nominal, ordinal, interval or ratio")] = "nominal",
    bootstrap: Annotated[int, typer.Option(help="resamples for the interval; 0 for none", min=0)] = 2000,
    seed: Annotated[int, typer.Option(help="fixes the resamples")] = 0,
) -> None:
    """Krippendorff's alpha and raw agreement of a CSV file."""
    from accord.feedback import agreement as statistics

    levels = ("nominal", "ordinal", "interval", "ratio")
    if level not in levels:
        raise ConfigError(f"--level {level}: unknown; it is one of {', '.join(levels)}")
    ratings = statistics.read_ratings_csv(file, unit, rater, value, level)  # type: ignore[arg-type]
    found = statistics.agreement(ratings, level=level, n_boot=bootstrap, seed=seed)  # type: ignore[arg-type]
    if found.alpha is None:
        print(f"accord: alpha is undefined: {found.alpha_undefined_because}", file=sys.stderr)
    print_json(found.to_json())


@app.command()
def quality(
    ledger: Annotated[str, typer.Argument(help="LEDGER or LEDGER#RELEASE")],
    text: Annotated[bool, typer.Option("--text", help="tables to read instead of JSON")] = False,
    groups: Annotated[
        Path | None, typer.Option(help="CSV with columns rater, group, of those who agreed to its use")
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="also each pair's label, margin and weight")] = False,
    bootstrap: Annotated[int, typer.Option(help="resamples for intervals; 0 for none", min=0)] = 1000,
    seed: Annotated[int, typer.Option(help="fixes the resamples")] = 0,
) -> None:
    """Whether the feedback in a ledger can be trusted: agreement, raters, reliability, drift."""
    from accord.stages import quality as stage

    told = None if groups is None else stage.read_groups_csv(groups)
    found = stage.measure(stage.read_facts(ledger), groups=told, n_boot=bootstrap, seed=seed, pairs=pairs)
    if not text:
        print_json(found)
        return
    from rich.console import Console

    stage.print_text(found, Console())


@app.command()
def check(
    data: Annotated[str, typer.Argument(help="a file, a folder or a hub name")],
    kind: Annotated[
        str,
        typer.Option(
            help="preferences, demonstrations, prompts, unpaired, rankings, scores, stepwise, safety"
        ),
    ] = "preferences",
    strict: Annotated[bool, typer.Option("--strict", help="stop at the first bad row")] = False,
) -> None:
    """Read data and list each row that cannot be used."""
    from accord.data import datasets, graded, safety

    loaders: dict[str, Callable[..., Loaded[Any]]] = {
        "preferences": datasets.load_preferences,
        "demonstrations": datasets.load_demonstrations,
        "prompts": datasets.load_prompts,
        "unpaired": datasets.load_unpaired,
        "rankings": graded.load_rankings,
        "scores": graded.load_scores,
        "stepwise": graded.load_steps,
        "safety": safety.load_safety,
    }
    if kind not in loaders:
        raise ConfigError(f"--kind {kind}: unknown; it is one of {', '.join(loaders)}")
    loaded = loaders[kind](data, strict=strict)
    for problem in loaded.problems:
        print(f"{problem.file}:{problem.line}: {problem.what}")
    print(f"{data}: {loaded.summary()}", file=sys.stderr)


@app.command()
def verify(ledger: Annotated[str, typer.Argument(help="ledger file or URL")]) -> None:
    """Check that nothing in a ledger was changed or lost."""
    from accord.errors import LedgerError
    from accord.ledger.ledger import Ledger

    with Ledger.open(ledger, create=False) as store:
        found = store.verify()
    print_json({"ok": found.ok, "problems": list(found.problems), "counts": dict(found.counts)})
    if not found.ok:
        raise LedgerError(
            f"{ledger}: {len(found.problems)} things are not as they were written, first "
            f"{found.problems[0]}; restore a backup, and find out who wrote to it"
        )


@app.command()
def serve(
    db: Annotated[str, typer.Option(help="ledger file or URL; a file is made if need be")] = "ledger.sqlite",
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen on")] = 8000,
    public_url: Annotated[
        str, typer.Option(help="the address people use, when a proxy with HTTPS stands before the app")
    ] = "",
    admin_link: Annotated[
        bool, typer.Option("--admin-link", help="print a link that makes another administrator")
    ] = False,
    runs: Annotated[Path | None, typer.Option(help="folder whose runs of the loop are shown live")] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="a model's folder: raters may talk with it; repeat for several")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="of the policies' answers")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer of a policy, in tokens")] = 256,
) -> None:
    """Serve the annotation app, in which people judge."""
    from accord.records import Sampling
    from accord.web.policies import Policies, check_models
    from accord.web.server import serve as run

    check_models(policy or [])
    drawn = Sampling(temperature=temperature, max_new_tokens=max_new_tokens)
    policies = Policies(policy, drawn) if policy else None
    say = partial(print, flush=True)  # whoever waits for the link may read it through a pipe
    run(
        db,
        host=host,
        port=port,
        public_url=public_url,
        admin_link=admin_link,
        say=say,
        runs=runs,
        policies=policies,
    )


Ledgers = Annotated[str, typer.Option(help="ledger file or URL")]


@app.command()
def why(
    row_or_model: Annotated[str, typer.Argument(help="a judgement's id, or a model's folder")],
    ledger: Ledgers = "ledger.sqlite",
) -> None:
    """Who judged what, by which guideline, behind a row or a model."""
    from accord.ledger.ledger import Ledger
    from accord.ledger.why import why as walk

    with Ledger.open(ledger, create=False) as store, store.reading() as connection:
        print_json(walk(connection, row_or_model))


@app.command("who-trained-on")
def who_trained_on(
    judgement: Annotated[str, typer.Argument(help="a judgement's id")],
    ledger: Ledgers = "ledger.sqlite",
) -> None:
    """The releases that hold a judgement, and the models trained on them."""
    from accord.ledger.ledger import Ledger
    from accord.ledger.why import who_trained_on as walk

    with Ledger.open(ledger, create=False) as store, store.reading() as connection:
        print_json(walk(connection, judgement))


@app.command("fetch-model")
def fetch_model() -> None:
    """Fetch the embedded model into the user's cache, once."""
    from accord.models.embedded import fetch_embedded

    print(fetch_embedded())


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)
