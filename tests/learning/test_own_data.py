"""The loop, the evaluation and the questions on a user's own prompts, judged by people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from accord.config import AskConfig, EvalConfig, RunConfig
from accord.errors import CheckpointError, ConfigError, DataError
from accord.ledger import projects
from accord.ledger.ledger import Ledger
from accord.loop import domain, rounds
from accord.loop.comparison import read_pairs
from accord.records import Prompt
from accord.scenarios import guideline_for, load_scenario
from accord.stages import ask, evaluate, people, sample
from answering import raters
from tiny import tiny_llama, tiny_tokenizer

QUIET = Console(quiet=True)
SHORT = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and prompts, demonstrations and a guideline of one's own."""
    folder = tmp_path_factory.mktemp("own")
    tiny_llama().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    asked = [{"prompt": f"How do I grow plant {i}?"} for i in range(12)]
    jsonl(folder / "prompts.jsonl", [*asked, asked[0]])
    jsonl(folder / "shown.jsonl", [{**row, "completion": "Water it."} for row in asked])
    (folder / "guideline.md").write_text("# Gardeners\n\nWhich answer keeps the plant alive?\n")
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "LOOK_AGAIN", 0.02)


def jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def settings(world: Path, out: Path, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "model": str(world / "model"),
        "prompts": str(world / "prompts.jsonl"),
        "out": out,
        "raters": "people",
        "sample": {"k": 2, **SHORT},
        "ask": {"overlap_share": 0.0},
        "reward": {"epochs": 1, "batch_size": 4, "held_out": 0.5},
        "ppo": {"iterations": 1, "prompts_per_iteration": 2, "k": 2, **SHORT},
        "eval": SHORT,
    }
    return RunConfig.model_validate({**values, **changes})


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_loop_runs_on_prompts_of_ones_own(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shown = {"demonstrations": str(world / "shown.jsonl"), "sft": {"epochs": 0.3}}
    config = settings(world, out, guideline=str(world / "guideline.md"), **shown)
    with raters(out, "ann", "bob"):
        rounds.run(config, QUIET)
    report = json.loads((out / "report.json").read_text())
    assert report["scenario"] == "prompts.jsonl" and report["simulated_raters"] is False
    assert report["data"] == {"train_prompts": 10, "heldout_prompts": 2, "demonstrations": 12}
    policy = report["policy"]
    assert policy["compared_by"] == "people" and 0 <= policy["low"] <= policy["win_rate_vs_sft"] <= 1
    assert 0 <= policy["reward_wins"]["value"] <= 1 and "invented_before" not in policy
    page = (out / "report.html").read_text()
    assert "on the reward model prefers it" not in page and "invented" not in page
    assert "questions on which the reward model prefers it" in page
    with Ledger.open(out / "ledger.sqlite") as ledger, ledger.reading() as connection:
        for name in ("answers", "evaluation"):
            project = people.find_project(connection, name)
            assert project is not None
            assert "keeps the plant alive" in projects.guidelines(connection, project)[0].text
    held = {row["prompt"][0]["content"] for row in lines(out / "data" / "heldout_prompts.jsonl")}
    trained = {row["prompt"][0]["content"] for row in lines(out / "data" / "train_prompts.jsonl")}
    assert len(held) == 2 and len(trained) == 10 and not held & trained


def test_without_demonstrations_it_starts_from_the_model_itself(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with raters(out, "ann", "bob"):
        rounds.run(settings(world, out, evaluators="none"), QUIET)
    report = json.loads((out / "report.json").read_text())
    assert report["steps"]["sft"]["model"] == str(world / "model") and not (out / "sft").exists()
    assert report["data"]["demonstrations"] == 0 and report["policy"]["win_rate_vs_sft"] is None
    page = (out / "report.html").read_text()
    assert "fine-tuning on" not in page and "there is no win rate" in page
    changed = tmp_path / "others.jsonl"
    jsonl(changed, [{"prompt": f"Other {i}?"} for i in range(12)])
    (tmp_path / "link.jsonl").symlink_to(world / "prompts.jsonl")
    with pytest.raises(CheckpointError, match="other settings"):
        rounds.run(settings(world, out, evaluators="none", prompts=str(changed)), QUIET)


def test_a_run_whose_data_changed_is_refused(world: Path, tmp_path: Path) -> None:
    data, found = tmp_path / "data", domain.open_domain(settings(world, tmp_path), QUIET)
    domain.write_domain(found, data, begun=False)
    domain.write_domain(found, data, begun=True)
    other = domain.Domain(found.heldout_prompts, found.train_prompts, (), "")
    with pytest.raises(CheckpointError, match="train prompts are not those that this run began with"):
        domain.write_domain(other, data, begun=True)


def test_held_out_prompts_are_never_trained_on(world: Path, tmp_path: Path) -> None:
    jsonl(tmp_path / "held.jsonl", [{"prompt": f"How do I grow plant {i}?"} for i in (3, 5, 99)])
    console = Console(record=True, width=200, force_terminal=False)
    config = settings(world, tmp_path, heldout_prompts=str(tmp_path / "held.jsonl"))
    found = domain.open_domain(config, console)
    assert len(found.heldout_prompts) == 3 and len(found.train_prompts) == 10
    assert not {p.id for p in found.train_prompts} & {p.id for p in found.heldout_prompts}
    assert "2 prompts are among the held-out ones, too; none is trained on" in console.export_text()


def test_the_split_does_not_depend_on_the_order() -> None:
    prompts = [Prompt.of(f"Q{i}") for i in range(20)]
    train, held = domain.split(prompts, 0.2, seed=1)
    again = domain.split(prompts[::-1], 0.2, seed=1)
    assert (len(train), len(held)) == (16, 4)
    assert {p.id for p in held} == {p.id for p in again[1]}
    assert {p.id for p in held} != {p.id for p in domain.split(prompts, 0.2, seed=2)[1]}
    assert [len(part) for part in domain.split(prompts[:2], 0.01, seed=0)] == [1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"raters": "panel"}, r"raters: panel works for a ready scenario alone.*set raters to people or me"),
        ({"evaluators": "panel"}, r"evaluators: panel works .*set evaluators to people or none"),
        ({"prompts": None, "demonstrations": "x"}, "demonstrations belongs to prompts of your own"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_any_work(
    world: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        rounds.run(settings(world, tmp_path / "run", **changes), QUIET)
    assert not (tmp_path / "run" / "data").exists()


def test_one_prompt_is_too_few(world: Path, tmp_path: Path) -> None:
    jsonl(tmp_path / "one.jsonl", [{"prompt": "Why?"}])
    with pytest.raises(DataError, match="0 held out; both are needed"):
        domain.open_domain(settings(world, tmp_path, prompts=str(tmp_path / "one.jsonl")), QUIET)


def test_policies_are_evaluated_on_any_prompts(world: Path, tmp_path: Path) -> None:
    values = {"model": str(world / "model"), "baseline": str(world / "model"), "out": tmp_path, **SHORT}
    config = EvalConfig.model_validate({**values, "prompts": str(world / "prompts.jsonl")})
    found = evaluate.run(config, QUIET)
    assert found["simulated_raters"] == [] and found["policy"]["win_rate_vs_sft"] is None
    assert found["policy"]["kl"] == pytest.approx(0.0, abs=1e-3) and "best_of_n" not in found
    assert "reward_wins" not in found["policy"]
    assert len(read_pairs(tmp_path / "transcripts.json")) == 13
    with pytest.raises(DataError, match=r"can only judge the prompts of scenario 'shop'.*accord compare"):
        evaluate.run(config.model_copy(update={"raters": 3}), QUIET)


def test_how_often_the_reward_model_prefers_the_new() -> None:
    prompts = [Prompt.of(f"Q{i}") for i in range(4)]
    found = evaluate.reward_wins(prompts, [[2.0], [1.0], [0.0], [5.0]], [[1.0], [1.0], [3.0], [4.0]], seed=0)
    assert found["value"] == pytest.approx(2.5 / 4) and found["low"] <= found["value"] <= found["high"]


def test_other_files_are_no_transcripts(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('[{"answer": 1}]')
    for name in ("x.json", "missing.json"):
        with pytest.raises(DataError, match=rf"{name}: not the transcripts of two policies"):
            read_pairs(tmp_path / name)


def test_raters_read_the_guideline_of_what_they_judge(world: Path, tmp_path: Path) -> None:
    shop, own = load_scenario("shop"), [Prompt.of("Q")]
    assert guideline_for(None, shop, shop.train_prompts[:2]) == shop.guideline
    assert "somebody wrote to an assistant" in guideline_for(None, shop, own)
    assert "plant alive" in guideline_for(str(world / "guideline.md"), shop, shop.train_prompts)
    (tmp_path / "empty.md").write_text(" \n")
    with pytest.raises(DataError, match=r"empty\.md: is empty; write what makes an answer the better one"):
        guideline_for(str(tmp_path / "empty.md"), shop, own)
    with pytest.raises(DataError, match=r"gone\.md: cannot be read"):
        guideline_for(str(tmp_path / "gone.md"), shop, own)


def test_the_panel_says_whose_prompts_it_can_judge(world: Path, tmp_path: Path) -> None:
    samples = tmp_path / "samples.jsonl"
    values = {"model": str(world / "model"), "prompts": str(world / "prompts.jsonl"), "k": 2, **SHORT}
    sample.run(sample.SampleConfig.model_validate({**values, "out": samples, "limit": 2}), QUIET)
    config = AskConfig(samples=str(samples), ledger=str(tmp_path / "l.sqlite"))
    with pytest.raises(
        DataError, match=r"'How do I grow plant \d+\?'; let people judge: --raters me, or people"
    ):
        ask.run(config, QUIET)
