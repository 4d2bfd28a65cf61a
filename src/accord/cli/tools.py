"""The commands that are not stages: talking, measuring, checking, serving."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accord import __version__
from accord.cli.app import app, print_json
from accord.errors import ConfigError

if TYPE_CHECKING:
    from accord.data.datasets import Loaded


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
def compare(
    transcripts: Annotated[Path, typer.Argument(help="transcripts.json of accord eval")],
    ledger: Annotated[str, typer.Option(help="file (or database URL) that keeps every answer")],
    guideline: Annotated[str | None, typer.Option(help="Markdown file: what raters are told")] = None,
    members_of: Annotated[str, typer.Option(help="project whose members may compare, too")] = "answers",
    seed: Annotated[int, typer.Option(help="fixes the interval")] = 0,
) -> None:
    """Let people compare two policies, through accord serve; waits."""
    from accord.cli.app import make_console
    from accord.loop.comparison import compare, read_pairs
    from accord.scenarios import guideline_for, load_scenario

    prompts = [pair.group.prompt for pair in read_pairs(transcripts)]
    told = guideline_for(guideline, load_scenario("shop"), prompts)
    console = make_console()
    print_json(
        compare(transcripts, ledger, guideline=told, members_of=members_of, seed=seed, console=console)
    )


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
