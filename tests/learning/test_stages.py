"""The stages on tiny models, end to end through files: each learns what was planted."""

from __future__ import annotations

import json
import math
import random
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForSequenceClassification

from accord.cli import main
from accord.config import PpoConfig, RewardConfig, SampleConfig, SftConfig
from accord.data.batches import collate
from accord.data.render import Renderer
from accord.errors import ModelError, NumericsError
from accord.records import Group, Preference, Prompt
from accord.rewards.learned import load_classifier_reward
from accord.stages import online, reward, sample, sft
from accord.stages.compared import compared
from tiny import tiny_llama, tiny_tokenizer

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers with the letters a, b, c and z, and preferences in which more z always wins."""
    folder = tmp_path_factory.mktemp("world")
    tiny_llama(hidden=64, seed=1).save_pretrained(folder / "raw")
    tiny_tokenizer().save_pretrained(folder / "raw")
    rng = random.Random(0)

    def letters() -> str:
        return "".join(rng.choice("abcz") for _ in range(4))

    prompts = [{"prompt": f"Say {i}"} for i in range(40)]
    rows = []
    for prompt in [*prompts, *prompts, *prompts]:
        worse, better = sorted((letters(), letters() + "z"), key=lambda text: text.count("z"))
        if worse.count("z") < better.count("z"):
            rows.append({**prompt, "chosen": better[:4] + "z", "rejected": worse[:4]})
    demonstrations = [{**prompt, "completion": letters()} for prompt in prompts]
    files = (("prompts", prompts), ("preferences", rows), ("demonstrations", demonstrations))
    for name, lines in files:
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"model": str(folder / "raw"), "data": str(folder / "demonstrations.jsonl"), "out": folder}
    optim = {"learning_rate": 1e-2, "schedule": "linear"}
    sft.run(SftConfig.model_validate({**settings, "epochs": 20, "optim": optim}), QUIET)
    return folder


def reward_config(world: Path, out: Path, **changes: Any) -> RewardConfig:
    values = {"epochs": 3, "optim": {"learning_rate": 5e-3}, "lora": {"r": 8}, "held_out": 0.25, "seed": 0}
    files = {"model": str(world / "model"), "data": str(world / "preferences.jsonl"), "out": out}
    return RewardConfig.model_validate({**files, **values, **changes})


@pytest.fixture(scope="module")
def fitted(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reward")
    reward.run(reward_config(world, out), QUIET)
    return out


def test_the_reward_model_learns_a_planted_rule(fitted: Path) -> None:
    card = json.loads((fitted / "result.json").read_text())["card"]
    assert card["accuracy"]["value"] > 0.95
    assert card["n"] > 15
    assert card["ceiling"] is None


def test_half_of_the_layers_and_the_mean_learn_the_rule_too(world: Path, tmp_path: Path) -> None:
    result = reward.run(reward_config(world, tmp_path, depth=0.5, pooling="last+mean"), QUIET)
    assert result["card"]["accuracy"]["value"] > 0.9


def test_the_loss_falls_from_a_random_head_too(world: Path, tmp_path: Path) -> None:
    reward.run(reward_config(world, tmp_path, probe_penalty=None), QUIET)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").open()]
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_the_rule_is_learned_and_used_at_any_precision(world: Path, tmp_path: Path, dtype: str) -> None:
    result = reward.run(reward_config(world, tmp_path / "reward", dtype=dtype), QUIET)
    assert result["card"]["accuracy"]["value"] > 0.9
    config = ppo_config(world, tmp_path / "reward", tmp_path / "ppo", iterations=1, dtype=dtype)
    assert math.isfinite(online.run(config, QUIET)["score_last"])


def test_rows_in_any_order_are_the_same_comparisons() -> None:
    prompt = Prompt.of("Q")
    rows = [
        Preference(prompt, "a", "b"),
        Preference(prompt, "b", "c", margin=2.0),
        Preference(prompt, "c", "a", tie=True),
    ]

    def named(preferences: list[Preference]) -> set[tuple[Any, ...]]:
        (row,) = compared(preferences)
        texts = [c.text for c in row.group.completions]
        return {(texts[c.a], texts[c.b], c.label, c.margin) for c in row.said}

    expected = {("a", "b", 1.0, 0.0), ("b", "c", 1.0, 2.0), ("c", "a", 0.5, 0.0)}
    assert named(rows) == named(rows[::-1]) == expected


def ppo_config(world: Path, fitted: Path, out: Path, **changes: Any) -> PpoConfig:
    values = {
        "iterations": 16,
        "prompts_per_iteration": 8,
        "k": 4,
        "max_new_tokens": 6,
        "minibatches": 4,
        "missing_end_penalty": None,
        "lora": {"r": 8},
        "optim": {"learning_rate": 5e-3, "schedule": "constant"},
        "kl": {"coef": 0.0},
        "stop_kl": 10.0,
    }
    files = {"model": str(world / "model"), "reward_model": str(fitted / "model"), "out": out}
    return PpoConfig.model_validate({**files, "prompts": str(world / "prompts.jsonl"), **values, **changes})


@pytest.mark.parametrize("critic", ["reward", "reference", "policy"])
def test_ppo_raises_the_reward(world: Path, fitted: Path, tmp_path: Path, critic: str) -> None:
    online.run(ppo_config(world, fitted, tmp_path, critic=critic), QUIET)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    scores = [row["objective/scores"] for row in rows]
    spread = rows[0]["objective/scores_std"]
    assert sum(scores[-3:]) / 3 > sum(scores[:2]) / 2 + 0.5 * spread
    assert rows[0]["objective/kl"] == pytest.approx(0.0, abs=1e-3)
    assert rows[-1]["objective/kl"] > 0.1
    assert (tmp_path / "model" / "model.safetensors").is_file()


def accord_command(*words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_cost_model_is_fitted_and_limits_what_ppo_does(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`accord reward --loss cost` and `accord ppo-lagrangian`: each z pays, two of four are harm."""
    rng = random.Random(1)
    safe, unsafe = (
        [a for a in map("".join, product("abcz", repeat=4)) if (a.count("z") > 1) is kind]
        for kind in (False, True)
    )
    rows = [
        {"prompt": f"Say {i % 40}", "chosen": rng.choice(safe), "rejected": rng.choice(unsafe)}
        | {"chosen_unsafe": False, "rejected_unsafe": True}
        for i in range(320)
    ]
    (tmp_path / "harm.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text(
        'def z(completions, **columns):\n    return [c[-1]["content"].count("z") / 4 for c in completions]\n'
    )
    model = ("--model", str(world / "model"))
    fitted = accord_command(
        *("reward", "--loss", "cost", *model, "--data", str(tmp_path / "harm.jsonl"), "--epochs", "4"),
        *("--optim.learning_rate", "5e-3", "--lora.r", "8", "--pooling", "last+mean"),
        *("--out", str(tmp_path / "cost")),
        capsys=capsys,
    )
    assert fitted["held_out"]["costs/safety_accuracies"] > 0.9 and fitted["card"]["accuracy"]["value"] > 0.9
    changes = {"reward_model": f"{tmp_path / 'mine.py'}:z", "critic": "reference", "iterations": 14}
    config = ppo_config(world, tmp_path, tmp_path / "limited", **changes).model_dump(
        mode="json", exclude_unset=True, exclude={"out"}
    )
    (tmp_path / "ppo.yaml").write_text(json.dumps(config))

    def limited(limit: float, *more: str) -> list[dict[str, Any]]:
        out = tmp_path / f"limited{limit:.3f}"
        accord_command(
            *("ppo-lagrangian", "--config", str(tmp_path / "ppo.yaml"), "--cost_model", fitted["model"]),
            *("--cost_limit", f"{limit}", "--cost_multiplier_rate", "0.5", "--cost_window", "1"),
            *("--out", str(out), *more),
            capsys=capsys,
        )
        return [json.loads(line) for line in (out / "metrics.jsonl").open()]

    limit = limited(0.0, "--iterations", "1")[0]["objective/costs"] - 0.7
    log = limited(limit)
    costs = [row["objective/costs"] for row in log]
    # The limit is broken at first, and λ has it kept after a while; it swings about it then.
    assert costs[0] > limit > min(costs) and sum(costs[-9:]) / 9 < costs[0] - 0.5
    highest = max(row["objective/cost_multiplier"] for row in log)
    assert log[0]["objective/cost_multiplier"] > 1.0 and highest > log[-1]["objective/cost_multiplier"]


def test_the_leash_holds(world: Path, fitted: Path, tmp_path: Path) -> None:
    loose = online.run(ppo_config(world, fitted, tmp_path / "loose"), QUIET)
    tight = online.run(ppo_config(world, fitted, tmp_path / "tight", kl={"coef": 5.0}), QUIET)
    assert tight["kl_last_half"] < 0.5 * loose["kl_last_half"]


def test_an_adaptive_coefficient_moves(world: Path, fitted: Path, tmp_path: Path) -> None:
    kl = {"mode": "adaptive", "coef": 0.1, "target": 1e6, "horizon": 32}
    online.run(ppo_config(world, fitted, tmp_path, iterations=3, kl=kl), QUIET)
    coefs = [json.loads(line)["kl_coef"] for line in (tmp_path / "metrics.jsonl").open()]
    assert coefs == pytest.approx([0.1, 0.08, 0.064])


def test_full_fine_tuning_works_as_well(world: Path, fitted: Path, tmp_path: Path) -> None:
    settings = ppo_config(world, fitted, tmp_path, lora=None, iterations=3, optim={"learning_rate": 1e-3})
    assert online.run(settings, QUIET)["iterations"] == 3


def test_a_policy_that_is_not_its_reference_at_step_0_is_refused(
    world: Path, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = online.build

    def disturbed(*arguments: Any) -> online.Ppo:
        state = build(*arguments)
        with torch.no_grad():
            for parameter in state.bench.trunk.parameters("policy").values():
                parameter.add_(0.05)
        return state

    monkeypatch.setattr(online, "build", disturbed)
    with pytest.raises(NumericsError, match="at step 0 the policy differs from its reference"):
        online.run(ppo_config(world, fitted, tmp_path), QUIET)


def test_sft_lowers_the_loss_and_samples_show_it(world: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {i}", "completion": "zz"} for i in range(40)]
    data = tmp_path / "demos.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = SftConfig.model_validate(
        {"model": str(world / "model"), "data": str(data), "out": tmp_path / "sft", "epochs": 25}
        | {"optim": {"learning_rate": 5e-3}}
    )
    result = sft.run(settings, QUIET)
    assert result["loss_last"] < 0.2 * result["loss_first"]
    out = tmp_path / "samples.jsonl"
    drawn = sample.run(
        SampleConfig(
            model=result["model"], prompts=str(world / "prompts.jsonl"), out=out, k=2, max_new_tokens=5
        ),
        QUIET,
    )
    assert drawn["ended_by_themselves"] > 0.9
    texts = [c["text"] for line in out.open() for c in json.loads(line)["completions"]]
    assert texts.count("zz") > 0.9 * len(texts)


def classifier(folder: Path, labels: int) -> str:
    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=259, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    settings.num_labels = labels
    LlamaForSequenceClassification(settings).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def test_any_classifier_folder_is_a_reward_model(world: Path, tmp_path: Path) -> None:
    scorer = load_classifier_reward(classifier(tmp_path, 1))
    group = Group.of(Prompt.of("Q"), "a", "a longer answer")
    renderer = Renderer(tiny_tokenizer())
    scores_C = scorer([group], collate([renderer.group(group)])).scores_C
    for completion, score in zip(group.completions, scores_C, strict=True):
        turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": completion.text}]
        text = scorer.tokenizer.apply_chat_template(turns, tokenize=False)
        ids = scorer.tokenizer(text, return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            assert float(scorer.model(**ids).logits) == pytest.approx(float(score), abs=1e-5)
    result = online.run(
        ppo_config(world, tmp_path, tmp_path / "ppo", reward_model=str(tmp_path), iterations=2), QUIET
    )
    assert result["iterations"] == 2


def test_a_classifier_with_two_outputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has 2 outputs; a reward model has exactly one"):
        load_classifier_reward(classifier(tmp_path, 2))
