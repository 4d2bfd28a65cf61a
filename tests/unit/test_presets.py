"""Presets: every value is a valid setting, what is given wins, and the page lists what the code says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import accord
from accord import config
from accord.config import DpoConfig, GrpoConfig, PpoConfig, RunConfig, describe, read_config, with_overrides
from accord.config.presets import PRESETS
from accord.errors import ConfigError
from accord.loop.rounds import IMPROVE

FILES = {"model": "m", "data": "d", "reward_model": "r", "prompts": "p", "out": "o"}
ALL = [(like, method) for like, methods in PRESETS.items() for method in methods]
PAGE = Path(__file__).parents[2] / "docs" / "presets.md"
PPO = ["--model", "m", "--reward_model", "r", "--prompts", "p", "--out", "o"]


def schema_of(method: str) -> Any:
    return getattr(config, accord.STAGES[method][0])


def needed(method: str) -> dict[str, Any]:
    fields = schema_of(method).model_fields
    return {name: value for name, value in FILES.items() if name in fields}


def at(settings: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        settings = getattr(settings, name)
    return settings


@pytest.mark.parametrize(("like", "method"), ALL)
def test_every_value_is_a_setting_and_takes_effect(like: str, method: str) -> None:
    known = {name for name, *_ in describe(schema_of(method))} | {"lora"}
    found = with_overrides(schema_of(method), method, {"like": like, **needed(method)})
    for name, value in PRESETS[like][method].values.items():
        assert name in known
        assert at(found, name) == value, name
    assert schema_of(method).model_validate({"like": like, **needed(method)}) == found


def test_what_the_systems_are_known_for() -> None:
    """Written again from their sources, so that a slip in the table shows."""

    def loaded(like: str, method: str) -> Any:
        return with_overrides(schema_of(method), method, {"like": like, **needed(method)})

    ppo = loaded("n+", "ppo")
    assert (ppo.epochs, ppo.minibatches, ppo.prompts_per_iteration, ppo.k) == (4, 1, 512, 1)
    assert (ppo.kl.coef, ppo.lam, ppo.temperature, ppo.missing_end_penalty) == (0.05, 0.95, 0.7, 1.0)
    assert (ppo.optim.learning_rate, ppo.optim.adam_epsilon, ppo.optim.schedule) == (3e-6, 1e-5, "cosine")
    assert loaded("trl", "ppo").missing_end_penalty is None
    assert (loaded("openrlhf", "ppo").lam, loaded("openrlhf", "ppo").value_clip_range) == (1.0, 0.5)
    assert loaded("openrlhf", "ppo").kl.coef == 0.01 and loaded("openrlhf", "grpo").use_kl_in_reward
    grpo = loaded("trl", "grpo")
    assert (grpo.kl.coef, grpo.k, grpo.loss_type, grpo.optim.learning_rate) == (0.0, 8, "dapo", 1e-6)
    assert loaded("trl", "rloo").k == 2
    assert (loaded("trl", "sft").optim.learning_rate, loaded("trl", "sft").epochs) == (2e-5, 3.0)
    rates = [loaded(like, "reward").optim.learning_rate for like in PRESETS]
    assert rates == [1e-4, 9e-6, 3e-6]
    assert all(loaded(like, "reward").probe_penalty is None for like in PRESETS)  # they start at random
    assert loaded("n+", "sft").lora is None and loaded("n+", "reward").lora.r == 16
    assert (loaded("trl", "ipo").form, loaded("openrlhf", "ipo").form) == ("mean", "sum")
    assert (loaded("n+", "dpo").beta, loaded("trl", "simpo").sft_coef) == (0.05, 1.0)


def test_what_is_given_wins_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "ppo.yaml"
    file.write_text("like: n+\nepochs: 2\nkl: {coef: 0.3}\nlora: {r: 8}\n")
    found = read_config(PpoConfig, file, [*PPO, "--optim.learning_rate", "1e-3", "--lora.alpha=4"])
    assert (found.epochs, found.kl.coef, found.optim.learning_rate) == (2, 0.3, 1e-3)
    assert found.lora is not None and (found.lora.r, found.lora.alpha) == (8, 4)
    # The rest stays the preset's, also inside the sections, and below it the method's own.
    assert (found.minibatches, found.kl.mode, found.optim.adam_epsilon) == (1, "fixed", 1e-5)
    assert found.kl.target == PpoConfig.model_validate(needed("ppo")).kl.target
    assert math.isinf(found.stop_kl)
    other = read_config(PpoConfig, file, [*PPO, "--like", "openrlhf"])
    assert (other.lam, other.epochs, other.kl.coef) == (1.0, 2, 0.3)


def test_without_a_preset_nothing_changes() -> None:
    assert with_overrides(GrpoConfig, "grpo", needed("grpo")).optim.learning_rate == 1e-4
    assert with_overrides(DpoConfig, "dpo", {**needed("dpo"), "like": None}).beta == 0.1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--like", "TRL"], "--like TRL: no such preset; did you mean 'trl'?"),
        (["--like", "deepspeed"], "--like deepspeed: no such preset; there are trl, openrlhf, n+"),
    ],
)
def test_an_unknown_preset_is_one_line(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_config(PpoConfig, None, [*PPO, *flags])
    assert str(error.value) == message


def test_a_preset_that_knows_nothing_of_a_method_says_what_it_knows() -> None:
    with pytest.raises(
        ConfigError, match=r"--like n\+ has no defaults for grpo, only for ppo, dpo, sft, reward; leave"
    ):
        read_config(GrpoConfig, None, [*PPO, "--like", "n+"])


def test_a_section_of_a_run_file_may_name_one() -> None:
    run = RunConfig.model_validate({"grpo": {"like": "trl", "k": 3}})
    found = with_overrides(IMPROVE["grpo"][1], "grpo", run.grpo, **needed("grpo"))
    assert (found.k, found.kl.coef) == (3, 0.0)


def test_methods_are_called_as_their_commands() -> None:
    for name, (_, module) in accord.STAGES.items():
        if module in ("accord.stages.online", "accord.stages.offline"):
            assert schema_of(name).method == name


def row(like: str, method: str) -> str:
    """The page's row of one preset."""

    def shown(value: object) -> str:
        if isinstance(value, bool | None):
            return {None: "null", True: "true", False: "false"}[value]
        return ".inf" if value == math.inf else str(value)

    preset = PRESETS[like][method]
    values = " ".join(f"`{name}: {shown(value)}`" for name, value in preset.values.items())
    return f"| {method} | {values} | `{preset.source}` |"


def test_the_page_lists_every_value() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [row(*each) for each in ALL] == [line for line in text.splitlines() if " | `" in line]
