"""The on-policy methods with the built-in sampler in bfloat16: weighed, logged, and held to the trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from accord.config import OnlineConfig
from accord.errors import ConfigError, NumericsError
from accord.rollout import local
from accord.rollout.packed import multiplies_bfloat16
from accord.stages import online, rollouts
from printing import logged, printable, printing_config, write_world

QUIET = Console(quiet=True)
BFLOAT16 = pytest.mark.skipif(not multiplies_bfloat16(), reason="this processor does not multiply bfloat16")


@pytest.fixture(autouse=True)
def rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online, "open_reward", lambda *_: printable)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def rounded_config(world: Path, method: str, out: Path, **changes: Any) -> OnlineConfig:
    values: dict[str, Any] = {
        "iterations": 3,
        "max_new_tokens": 6,
        "dtype": "float32",
        "device": "cpu",
        "optim": {"learning_rate": 2e-2, "schedule": "constant"},
        "sampler_precision": "bfloat16",
    }
    return printing_config(world, method, out, **{**values, **changes})


@BFLOAT16
@pytest.mark.parametrize("cap", [2.0, None])
def test_the_mismatch_is_small_stays_small_and_is_weighed(world, tmp_path, cap):
    """Stays small: the sampler has each iteration's new weights, which move far in this run."""
    changes = {} if cap else {"importance_sampling_cap": None}
    free = {"kl": {"coef": 0.0}, "stop_kl": 100.0}
    online.run(rounded_config(world, "grpo", tmp_path, **free, **changes), QUIET)
    rows = logged(tmp_path)
    assert rows[-1]["objective/kl"] > 0.05
    assert all(1e-7 < row["policy/mismatch_kl"] < 5e-3 for row in rows)
    if cap is None:
        assert not any("policy/importance_avg" in row for row in rows)
    else:
        found = [row["policy/importance_avg"] for row in rows]
        assert all(x == pytest.approx(1, abs=0.05) and x != 1 for x in found)


@BFLOAT16
def test_a_model_that_rounds_too_much_is_refused_at_step_0(world, tmp_path, monkeypatch):
    monkeypatch.setattr(rollouts, "MISMATCH_MAX", 1e-12)
    with pytest.raises(NumericsError, match="before the first update: this model does not stand sampler_pre"):
        online.run(rounded_config(world, "rloo", tmp_path), QUIET)


def test_a_model_in_bfloat16_is_held_to_a_mean_not_to_its_worst_token(world, tmp_path, monkeypatch):
    whole = {"dtype": "bfloat16", "sampler_precision": "exact", "iterations": 1}
    monkeypatch.setattr(rollouts, "start_tolerance", lambda _: 0.0)  # what no rounding passes
    assert online.run(rounded_config(world, "rloo", tmp_path / "fine", **whole), QUIET)["iterations"] == 1
    monkeypatch.setattr(rollouts, "MISMATCH_MAX", 1e-12)
    with pytest.raises(NumericsError, match="this model does not stand half precision, set dtype to float32"):
        online.run(rounded_config(world, "rloo", tmp_path / "refused", **whole), QUIET)


def test_weights_of_tokens_are_the_default(world, tmp_path):
    for method in ("grpo", "rloo", "reinforce++", "ppo"):
        on, off = (
            rounded_config(world, method, tmp_path, sampler_precision=name) for name in ("bfloat16", "exact")
        )
        assert (on.importance_sampling_cap, off.importance_sampling_cap) == (2.0, None)  # type: ignore[attr-defined]
        assert on.mismatched and not off.mismatched
        switched_off = rounded_config(world, method, tmp_path, importance_sampling_cap=None)
        assert switched_off.importance_sampling_cap is None  # type: ignore[attr-defined]
    assert rounded_config(world, "xpo", tmp_path).mismatched
    assert rounded_config(world, "xpo", tmp_path, sampler="vllm", sampler_precision="exact").mismatched


def test_refusals(world, tmp_path, monkeypatch):
    with pytest.raises(ValidationError, match="sampler_precision bfloat16 is for the built-in sampler"):
        rounded_config(world, "grpo", tmp_path, sampler="vllm")
    monkeypatch.setattr(local, "multiplies_bfloat16", lambda: False)
    with pytest.raises(ConfigError, match="needs a processor that multiplies it"):
        online.run(rounded_config(world, "grpo", tmp_path / "out"), QUIET)
    with pytest.raises(ConfigError, match="and this one is in float64"):
        online.run(rounded_config(world, "grpo", tmp_path / "out", dtype="float64"), QUIET)
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
