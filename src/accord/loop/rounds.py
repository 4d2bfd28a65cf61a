"""The whole loop as a resumable state machine.

    sft -> [ sample -> ask -> reward -> ppo (or another method) -> eval -> gate ] x rounds -> report

Without demonstrations there is no SFT. With people as raters, ask waits until they have answered, and eval is
followed by a step `compare`.

Every step reads and writes files in the run's folder and is also a command of its own. What is done is
written down after each step, so an interrupted run goes on where it was; steps that train also resume
from within.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from accord import __version__
from accord.config import (
    AskConfig,
    EvalConfig,
    GrpoConfig,
    OnlineConfig,
    OnlineDpoConfig,
    PpoConfig,
    ReinforcePlusPlusConfig,
    RewardConfig,
    RlooConfig,
    RunConfig,
    SampleConfig,
    SftConfig,
    with_overrides,
)
from accord.errors import CheckpointError, DataError
from accord.evaluation.report import write_report
from accord.ledger.ledger import Ledger
from accord.loop.comparison import compare
from accord.loop.domain import counts, evaluators, name_of, open_domain, write_domain
from accord.loop.live import LIVE, Live
from accord.records import content_hash
from accord.stages import ask, evaluate, online, reward, sample, sft
from accord.stages.common import write_json
from accord.training.checkpoint import write_atomically
from accord.training.run import peak_gpu_gb, peak_rss_gb, read_metrics

Result = dict[str, Any]

# method -> (its section in a run file, its settings)
IMPROVE: Mapping[str, tuple[str, type[OnlineConfig]]] = {
    "ppo": ("ppo", PpoConfig),
    "grpo": ("grpo", GrpoConfig),
    "rloo": ("rloo", RlooConfig),
    "reinforce++": ("reinforce_plus_plus", ReinforcePlusPlusConfig),
    "online-dpo": ("online_dpo", OnlineDpoConfig),
}


@dataclass
class Progress:
    """`state.json`: the results of the steps that are done, and the seconds and memory they took."""

    path: Path
    settings: str
    done: dict[str, Result]
    live: Live

    @classmethod
    def open(cls, config: RunConfig) -> Progress:
        """Raises CheckpointError if the folder holds a run with other settings."""
        path, live = (
            config.out / "state.json",
            Live(config.out / LIVE, planned(config), asking_project(config)),
        )
        told = json.loads(config.model_dump_json(exclude={"out", "device"}, exclude_defaults=True))
        told.get("ask", {}).pop("wait", None)  # whoever tires of waiting may ask for less
        settings = content_hash(told)
        if not path.exists():
            return cls(path, settings, {}, live)
        try:
            state = json.loads(path.read_text())
        except ValueError as error:
            raise CheckpointError(f"{path}: damaged ({error}); delete {config.out} to start again") from error
        if state["settings"] != settings:
            raise CheckpointError(
                f"{config.out} holds a run with other settings; give another --out, or delete it to "
                "start again"
            )
        return cls(path, settings, state["done"], live)

    def step(self, name: str, work: Callable[[], Result], console: Console) -> Result:
        """The result of step `name`, from the last time if it was done, else by doing it now."""
        if name in self.done:
            return self.done[name]
        console.rule(f"[bold]{name}", align="left")
        self.live.begin(name)
        before, began = self.spent(name), time.perf_counter()
        result = work()
        self.done[name] = {
            **result,
            "seconds": before + time.perf_counter() - began,
            "peak_rss_gb": peak_rss_gb(),
            "peak_gpu_gb": peak_gpu_gb(),
        }
        write_atomically(self.path, json.dumps({"settings": self.settings, "done": self.done}, indent=1))
        return self.done[name]

    def spent(self, name: str) -> float:
        """Seconds that earlier, interrupted tries at a step had already used (its logged steps)."""
        folder = self.path.parent / name
        return sum(float(row.get("seconds", 0.0)) for row in read_metrics(folder)) if folder.is_dir() else 0.0


def run(config: RunConfig, console: Console) -> Path:
    """Drive the loop and return the path of its report."""
    out = config.out
    out.mkdir(parents=True, exist_ok=True)
    progress = Progress.open(config)
    with progress.live.running():
        domain = open_domain(config, console)
        write_domain(domain, out / "data", begun=bool(progress.done))
        if not domain.demonstrations:
            progress.step("sft", lambda: {"model": config.model, "skipped": "no demonstrations"}, console)
        policy = progress.step("sft", lambda: run_sft(config, console), console)["model"]
        for number in range(1, config.rounds + 1):
            policy = run_round(config, number, policy, progress, console)
        write_json(out / "run.json", json.loads(config.model_dump_json()))
        return rewrite_report(out)


def planned(config: RunConfig) -> list[str]:
    """The names of all steps, in order."""
    people = ["compare"] if evaluators(config) == "people" else []
    names = ["sample", "ask", "reward", config.method, "eval", *people, "gate"]
    return ["sft", *(f"round-{n}/{name}" for n in range(1, config.rounds + 1) for name in names)]


def rewrite_report(out: Path) -> Path:
    """Gather a finished run's results into report.json and report.html, and return the latter's path."""
    if not (out / "run.json").exists():
        raise DataError(
            f"{out}: no finished run here; `accord run FILE.yaml --out {out}` makes (or resumes) one"
        )
    config = RunConfig.model_validate_json((out / "run.json").read_text()).model_copy(update={"out": out})
    report = summary(config, Progress.open(config))
    curves = {name: [dict(row) for row in read_metrics(out / name)] for name in _trained(config)}
    last = out / f"round-{config.rounds}" / "eval"
    write_report(report, curves, json.loads((last / "transcripts.json").read_text()), out)
    return out / "report.html"


def run_sft(config: RunConfig, console: Console) -> Result:
    settings = with_overrides(
        SftConfig,
        "sft",
        config.sft,
        model=config.model,
        data=str(config.out / "data" / "demonstrations.jsonl"),
        out=config.out / "sft",
        seed=config.seed,
        dtype=config.dtype,
        device=config.device,
    )
    return sft.run(settings, console)


def run_round(config: RunConfig, number: int, policy: str, progress: Progress, console: Console) -> str:
    """One turn of the loop from `policy`; returns the policy that the next one starts from."""
    name, out = f"round-{number}", config.out / f"round-{number}"
    asking = gather(config, number, policy, progress, console)
    rewarding = with_overrides(
        RewardConfig,
        "reward",
        {"aggregate": asking.aggregate, **config.reward},
        model=policy,
        data=f"{asking.ledger}#{asking.release}",
        out=out / "reward",
        **common(config, number),
    )
    fitted = progress.step(f"{name}/reward", lambda: reward.run(rewarding, console), console)
    section, schema = IMPROVE[config.method]
    improving = with_overrides(
        schema,
        section,
        getattr(config, section),
        model=policy,
        reward_model=fitted["model"],
        prompts=str(config.out / "data" / "train_prompts.jsonl"),
        out=out / config.method,
        **common(config, number),
    )
    improved = progress.step(f"{name}/{config.method}", lambda: online.run(improving, console), console)
    with Ledger.open(asking.ledger) as store:
        for model in (fitted["model"], improved["model"]):
            store.record_training(model, name, run=config.out.name)
    low = check(config, number, (improved["model"], fitted["model"]), progress, console)
    # Where nobody compares, nothing speaks against the new policy, and nothing for it.
    better = low is None or low > 0.5
    gate = {"accepted": better, "low": low, "compared_by": evaluators(config)}
    progress.step(f"{name}/gate", lambda: gate, console)
    return improved["model"] if better else policy


def common(config: RunConfig, number: int) -> dict[str, Any]:
    """What the stages of a round share."""
    return {"seed": seed_of(config, number), "dtype": config.dtype, "device": config.device}


def seed_of(config: RunConfig, number: int) -> int:
    return config.seed + 1000 * (number - 1)


def gather(config: RunConfig, number: int, policy: str, progress: Progress, console: Console) -> AskConfig:
    """Sample the policy's answers and put them to raters; returns how they were asked."""
    name, out = f"round-{number}", config.out / f"round-{number}"
    sampling = with_overrides(
        SampleConfig,
        "sample",
        config.sample,
        model=policy,
        prompts=str(config.out / "data" / "train_prompts.jsonl"),
        out=out / "samples.jsonl",
        **common(config, number),
    )
    progress.step(f"{name}/sample", lambda: sample.run(sampling, console), console)
    asking = with_overrides(
        AskConfig,
        "ask",
        config.ask,
        samples=str(sampling.out),
        ledger=str(config.out / "ledger.sqlite"),
        raters=config.raters,
        scenario=config.scenario,
        guideline=config.guideline,
        release=name,
        seed=seed_of(config, number),
    )
    progress.step(
        f"{name}/ask",
        lambda: ask.run(asking, console, priority=number, tell=progress.live.waiting),
        console,
    )
    return asking


def check(
    config: RunConfig, number: int, models: tuple[str, str], progress: Progress, console: Console
) -> float | None:
    """Compare the round's policy with the SFT model: the lower end of its win rate; None if nobody compared.

    `models` are the policy and the reward model that scored it.
    """
    name, out = f"round-{number}", config.out / f"round-{number}"
    by = evaluators(config)
    nobody = {} if by == "panel" else {"raters": 0, "best_of": 1}
    settings = with_overrides(
        EvalConfig,
        "eval",
        config.eval | nobody,
        model=models[0],
        baseline=progress.done["sft"]["model"],
        prompts=str(config.out / "data" / "heldout_prompts.jsonl"),
        reward_model=models[1],
        scenario=config.scenario,
        out=out / "eval",
        **common(config, number),
    )
    checked = progress.step(f"{name}/eval", lambda: evaluate.run(settings, console), console)
    if by == "people":

        def people_compare() -> Result:
            return compare(
                out / "eval" / "transcripts.json",
                str(config.out / "ledger.sqlite"),
                guideline=open_domain(config, Console(quiet=True)).guideline,
                members_of=asking_project(config),
                seed=seed_of(config, number),
                console=console,
                tell=progress.live.waiting,
            )

        return float(progress.step(f"{name}/compare", people_compare, console)["low"])
    low = checked["policy"]["low"]
    return None if low is None else float(low)


def asking_project(config: RunConfig) -> str:
    """The project in which people are asked; also what tells who may compare policies."""
    return with_overrides(AskConfig, "ask", config.ask, samples="").project


def summary(config: RunConfig, progress: Progress) -> Result:
    """What report.json holds: the last round's numbers on top, every step's result below."""
    last = f"round-{config.rounds}"
    asked, fitted, improved, checked = (
        progress.done[f"{last}/{s}"] for s in ("ask", "reward", config.method, "eval")
    )
    compared = progress.done.get(f"{last}/compare", {})
    wins = {key: compared[key] for key in ("win_rate_vs_sft", "low", "high", "n") if key in compared}
    card = fitted["card"]
    return {
        "accord": __version__,
        "model": config.model,
        "method": config.method,
        "scenario": name_of(config),
        "seed": config.seed,
        "rounds": config.rounds,
        "simulated_raters": asked["simulated"],
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "cpu": platform.machine(),
        },
        "wall_seconds": sum(step["seconds"] for step in progress.done.values()),
        "seconds": {name: step["seconds"] for name, step in progress.done.items()},
        "peak_rss_gb": max(step["peak_rss_gb"] for step in progress.done.values()),
        "agreement": asked["agreement"],
        "judgements": asked["judgements"],
        "raters": asked["raters"],
        "reward_model": {
            "accuracy": card["accuracy"]["value"],
            "low": card["accuracy"]["low"],
            "high": card["accuracy"]["high"],
            "n": card["n"],
            "ceiling": card["ceiling"]["value"] if card["ceiling"] else None,
            "longer_wins": card["longer_wins"]["value"],
            "first_wins": card["first_wins"]["value"],
            "card": card,
            "train_prompts": fitted["prompts"],
            "comparisons": fitted["comparisons"],
        },
        "policy": {
            **checked["policy"],
            **wins,
            "kl_target": improved["kl_target"],
            "kl_last_half": improved["kl_last_half"],
            "evaluators": compared.get("raters", checked["simulated_raters"]),
            "compared_by": evaluators(config),
            "same_text": compared.get("same_text"),
        },
        "best_of_n": checked.get("best_of_n"),
        "policy_vs_best_of_n": checked.get("policy_vs_best_of_n"),
        "accepted": progress.done[f"{last}/gate"]["accepted"],
        "steps": progress.done,
        "data": counts(config.out / "data"),
    }


def _trained(config: RunConfig) -> list[str]:
    """The steps that log metrics."""
    names = ("reward", config.method)
    return ["sft", *(f"round-{n}/{name}" for n in range(1, config.rounds + 1) for name in names)]
