"""The whole loop on a tiny random model: every step runs, is recorded, and is not done twice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from accord.config import RunConfig, read_config
from accord.errors import CheckpointError, ConfigError, DataError
from accord.ledger.ledger import Ledger
from accord.loop import quickstart_file, rounds
from tiny import tiny_llama, tiny_tokenizer

QUIET = Console(quiet=True)
NUMBERS = """
    wall_seconds peak_rss_gb model seed agreement.alpha agreement.raw
    reward_model.accuracy reward_model.low reward_model.high reward_model.ceiling
    reward_model.longer_wins reward_model.n policy.win_rate_vs_sft policy.low policy.high policy.n
    policy.kl policy.reward_before policy.reward_after policy.length_before policy.length_after
    policy.invented_before policy.invented_after best_of_n.win_rate_vs_sft best_of_n.low best_of_n.high
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_llama().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def settings(model: str, out: Path, **changes: object) -> RunConfig:
    values: dict[str, object] = {
        "model": model,
        "out": out,
        "sft": {"epochs": 0.2, "optim": {"learning_rate": 1e-3}},
        "sample": {"k": 2, "max_new_tokens": 6, "limit": 12},
        "ask": {"panel_size": 3, "overlap_share": 1.0},
        "reward": {"epochs": 1, "batch_size": 4, "held_out": 0.5},
        "ppo": {"iterations": 2, "prompts_per_iteration": 3, "k": 2, "max_new_tokens": 6},
        "eval": {"best_of": 2, "raters": 2, "max_new_tokens": 6},
    }
    return RunConfig.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def seeds() -> dict[str, list[int]]:
    """The seed of each stage, round after round, once the run is `finished`."""
    return {}


@pytest.fixture(scope="module")
def finished(model: str, tmp_path_factory: pytest.TempPathFactory, seeds: dict[str, list[int]]) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"

    def noting(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def noted(config: Any, *args: Any, **kwargs: Any) -> Any:
            seeds.setdefault(name, []).append(config.seed)
            return run(config, *args, **kwargs)

        return noted

    with pytest.MonkeyPatch.context() as patch:
        for stage in (rounds.sft, rounds.sample, rounds.ask, rounds.reward, rounds.online, rounds.evaluate):
            patch.setattr(stage, "run", noting(stage.__name__.rpartition(".")[2], stage.run))
        rounds.run(settings(model, out, rounds=2, seed=3), QUIET)
    return out


def test_every_round_has_a_seed_of_its_own_that_its_stages_share(
    finished: Path, seeds: dict[str, list[int]]
) -> None:
    each = {stage: [3, 1003] for stage in ("sample", "ask", "reward", "online", "evaluate")}
    assert seeds == {"sft": [3], **each}


def test_the_report_has_every_number(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    assert report["simulated_raters"] is True
    for path in NUMBERS.split():
        value = report
        for key in path.split("."):
            value = value[key]
        assert value is None or isinstance(value, (int, float, str)), path
    assert (
        0 <= report["policy"]["low"] <= report["policy"]["win_rate_vs_sft"] <= report["policy"]["high"] <= 1
    )
    assert math.isfinite(report["policy"]["kl"])
    assert "<html" in (finished / "report.html").read_text()


def test_the_ledger_knows_what_every_model_was_trained_on(finished: Path) -> None:
    with Ledger.open(finished / "ledger.sqlite", create=False) as ledger:
        assert ledger.verify().ok
        model = str(finished / "round-1" / "ppo" / "model")
        assert ledger.trained_on(model) == ["round-1"]
        judgement = ledger.release_judgements("round-1")[0]
        assert judgement.rater_kind == "simulated"
        assert model in ledger.models_touched_by(judgement.id)


def test_the_second_round_judges_new_answers_too(finished: Path) -> None:
    with Ledger.open(finished / "ledger.sqlite", create=False) as ledger:
        first = {j.id for j in ledger.release_judgements("round-1")}
        second = {j.id for j in ledger.release_judgements("round-2")}
    assert first < second


def test_what_is_done_is_not_done_again(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    config = settings(model, out)

    def stop(*_: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(rounds.evaluate, "run", stop)
        with pytest.raises(RuntimeError, match="power cut"):
            rounds.run(config, QUIET)
    done = json.loads((out / "state.json").read_text())["done"]
    assert list(done) == ["sft", "round-1/sample", "round-1/ask", "round-1/reward", "round-1/ppo"]
    with monkeypatch.context() as patch:
        for stage in (rounds.sft, rounds.sample, rounds.ask, rounds.reward, rounds.online):
            patch.setattr(stage, "run", stop)
        assert rounds.run(config, QUIET).name == "report.html"


def test_a_folder_with_another_run_is_refused(finished: Path, model: str) -> None:
    with pytest.raises(CheckpointError, match="other settings"):
        rounds.run(settings(model, finished, rounds=2, seed=5), QUIET)


def test_the_loop_keeps_what_it_decides_itself(model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sft\.model is decided by the loop"):
        rounds.run(settings(model, tmp_path / "run", sft={"model": "other"}), QUIET)


def test_a_report_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished run here"):
        rounds.rewrite_report(tmp_path)


def test_the_shipped_run_file_is_valid(tmp_path: Path) -> None:
    config = read_config(RunConfig, quickstart_file(), ["--out", str(tmp_path), "--seed", "3"])
    assert config.seed == 3
    assert config.method == "ppo"
