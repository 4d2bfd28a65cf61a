"""Settings: where they come from, and what is said when one is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from accord import config
from accord.config import PpoConfig, RewardConfig, RunConfig, SftConfig, describe, read_config, with_overrides
from accord.errors import ConfigError
from accord.loop import quickstart_file

PPO = ["--model", "m", "--reward_model", "r", "--prompts", "p", "--out", "o"]
SFT = ["--model", "m", "--data", "d", "--out", "o"]


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "model: a\ndata: d\nout: o\nepochs: 5\noptim:\n  learning_rate: 1e-3\n")
    found = read_config(SftConfig, path, ["--model", "b", "--optim.learning_rate=2e-4"])
    assert (found.model, found.epochs, found.optim.learning_rate) == ("b", 5, 2e-4)


def test_a_section_given_in_part_keeps_the_stages_own_defaults() -> None:
    default = SftConfig(model="m", data="d", out=Path("o")).optim
    found = read_config(SftConfig, None, [*SFT, "--optim.learning_rate", "1e-2"]).optim
    assert found == default.model_copy(update={"learning_rate": 1e-2})
    run = with_overrides(RewardConfig, "reward", {"lora": {"r": 8}}, model="m", data="d", out=Path("o"))
    assert run.lora.layers == RewardConfig(model="m", data="d", out=Path("o")).lora.layers == 0.5


def test_null_turns_an_adapter_off() -> None:
    assert read_config(SftConfig, None, [*SFT, "--lora", "null"]).lora is None


def test_a_bare_flag_is_true() -> None:
    assert read_config(SftConfig, None, [*SFT, "--strict"]).strict is True


def test_an_unknown_key_names_its_line_and_the_nearest_known_one(tmp_path: Path) -> None:
    path = write(tmp_path, "model: a\ndata: d\nout: o\noptim:\n  learning_rat: 1\n")
    with pytest.raises(ConfigError, match=r"run.yaml:5: optim.learning_rat: unknown .*'learning_rate'\?"):
        read_config(SftConfig, path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kl.coeff", "1"], r"--kl.coeff: unknown setting; did you mean 'coef'\?"),
        (["--zzz", "1"], r"--zzz: unknown setting; known here: .*clip_range"),
        (["--gamma", "1.5"], r"--gamma: .*less than or equal to 1, got 1.5"),
        (["--iterations", "ten"], r"--iterations: .*integer.*got 'ten'"),
        (["--kl.mode", "loose"], r"--kl.mode: .*'fixed' or 'adaptive', got 'loose'"),
        (["--gamma", "1", "--gamma.x", "1"], r"--gamma.x: gamma is a single value, not a section"),
        (["stray"], r"unexpected argument 'stray'"),
    ],
)
def test_a_bad_flag_is_explained(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(PpoConfig, None, [*PPO, *flags])


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"reward_model is missing; give it as --reward_model VALUE"):
        read_config(PpoConfig, None, ["--model", "m", "--prompts", "p", "--out", "o"])


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n", r"run.yaml:1: expected settings"), ("a: [1\nb: 2", r"run.yaml:2: not valid YAML")],
)
def test_a_file_that_is_no_settings(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(SftConfig, write(tmp_path, text))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: no such file"):
        read_config(SftConfig, tmp_path / "none.yaml")


def test_what_the_loop_decides_cannot_be_set() -> None:
    with pytest.raises(ConfigError, match=r"ppo.model is decided by the loop"):
        with_overrides(PpoConfig, "ppo", {"model": "x"}, model="m")


def test_every_stage_of_the_shipped_run_file_is_valid(tmp_path: Path) -> None:
    run = read_config(RunConfig, quickstart_file(), ["--out", str(tmp_path)])
    fixed = {"model": "m", "out": tmp_path}
    assert with_overrides(SftConfig, "sft", run.sft, data="d", **fixed)
    assert with_overrides(RewardConfig, "reward", run.reward, data="d", **fixed)
    assert with_overrides(PpoConfig, "ppo", run.ppo, prompts="p", reward_model="r", **fixed)


@pytest.mark.parametrize("name", [n for n in dir(config) if n.endswith("Config")])
def test_help_lists_every_setting(name: str) -> None:
    schema: type[BaseModel] = getattr(config, name)
    listed = {row[0].split(".")[0] for row in describe(schema)}
    assert listed == set(schema.model_fields)


def test_help_shows_a_default_of_white_space_in_quotes() -> None:
    class Separated(BaseModel):
        between: str = "\n\n"
        word: str = "and"
        count: int = 3

    assert [default for _, _, default, _ in describe(Separated)] == [r"'\n\n'", "and", "3"]
