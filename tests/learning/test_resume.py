"""Kill a stage at a random step, run it again: the same bytes as if nothing had happened."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiny import tiny_llama, tiny_tokenizer

PREFERENCES = [
    {"prompt": f"Say {i}.", "chosen": f"{i}! " + "yes " * (i % 4 + 1), "rejected": f"no {i}"}
    for i in range(24)
]
OPTIM = ["--optim.learning_rate", "1e-2"]
STEPS = {
    "sft": [*OPTIM, "--epochs", "3", "--batch_size", "6"],
    "reward": [*OPTIM, "--epochs", "3", "--batch_size", "4"],
    "dpo": [*OPTIM, "--epochs", "3", "--batch_size", "4"],
    "ppo": ["--iterations", "8", "--prompts_per_iteration", "4", "--k", "2", "--max_new_tokens", "6", *OPTIM],
}
STEPS["grpo"] = [*STEPS["ppo"], "--kl.mode", "adaptive", "--kl.horizon", "50"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, and a reward model."""
    folder = tmp_path_factory.mktemp("world")
    tiny_llama(hidden=64).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    lines = {
        "preferences": PREFERENCES,
        "demonstrations": [{"prompt": r["prompt"], "completion": r["chosen"]} for r in PREFERENCES],
        "prompts": [{"prompt": r["prompt"]} for r in PREFERENCES],
    }
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    subprocess.run(command(folder, "reward", folder / "rm"), check=True, capture_output=True)
    return folder


def command(world: Path, stage: str, out: Path) -> list[str]:
    data = {
        "sft": ["--data", str(world / "demonstrations.jsonl")],
        "reward": ["--data", str(world / "preferences.jsonl")],
        "dpo": ["--data", str(world / "preferences.jsonl")],
        "ppo": ["--prompts", str(world / "prompts.jsonl"), "--reward_model", str(world / "rm" / "model")],
    }
    data["grpo"] = data["ppo"]
    code = "import torch; torch.set_num_threads(1); from accord.cli import main; main()"
    common = ["--model", str(world / "model"), "--out", str(out), "--checkpoint_every", "2", "--seed", "3"]
    return [sys.executable, "-c", code, stage, *common, *data[stage], *STEPS[stage]]


def weights(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (out / "model").glob("*.safetensors")}


def kill_after(process: subprocess.Popen[bytes], log: Path, steps: int) -> None:
    """SIGKILL as soon as the log has `steps` lines."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_bytes().count(b"\n") >= steps:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    process.wait(timeout=120)


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo", "grpo"])
def test_a_killed_stage_ends_bit_identical(world: Path, tmp_path: Path, stage: str) -> None:
    subprocess.run(command(world, stage, tmp_path / "straight"), check=True, capture_output=True)
    expected = weights(tmp_path / "straight")
    assert expected
    steps = (tmp_path / "straight" / "metrics.jsonl").read_bytes().count(b"\n")
    at = random.Random(stage).randint(3, steps - 2)
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        command(world, stage, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    kill_after(process, killed / "metrics.jsonl", at)
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "model").exists()
    again = subprocess.run(command(world, stage, killed), check=True, capture_output=True)
    assert b"going on after step" in again.stderr
    assert weights(killed) == expected

    def logged(out: Path) -> list[dict[str, float]]:
        rows = [json.loads(line) for line in (out / "metrics.jsonl").open()]
        return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]

    assert logged(killed) == logged(tmp_path / "straight")
