"""Pre-training: a model from scratch learns a known source to near its entropy rate, and can be resumed."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from accord.config import PretrainConfig
from accord.data.packing import pieces
from accord.errors import ConfigError
from accord.models.load import load_model
from accord.stages import pretrain
from accord.training.engine import Engine

QUIET = Console(quiet=True)
# P(next | last) of a source with the letters a, b and c and an end; every text begins with a.
LETTERS = "abc"
NEXT = np.array([[0.05, 0.8, 0.1, 0.05], [0.1, 0.05, 0.8, 0.05], [0.85, 0.05, 0.05, 0.05]])


def draw(rng: random.Random) -> str:
    text, state = "a", 0
    while (state := rng.choices(range(4), NEXT[state])[0]) < 3:
        text += LETTERS[state]
    return text


def entropy_rate() -> float:
    """Nats per token: the first letter is certain, then the chain runs until the end."""
    visits = np.linalg.solve(np.eye(3) - NEXT[:, :3].T, np.array([1.0, 0.0, 0.0]))  # expected, from an a
    entropy = -(NEXT * np.log(NEXT)).sum(1)
    return float(visits @ entropy / (1 + visits.sum()))


def config(folder: Path, name: str, **changes: Any) -> PretrainConfig:
    values = {
        "data": str(folder / "source.txt"),
        "documents": "line",
        "from_scratch": {"hidden_size": 32, "layers": 1, "heads": 2},
        "length": 64,
        "batch_size": 8,
        "epochs": 12,
        "held_out": 0.25,
        "seed": 3,
        "optim": {"learning_rate": 1e-2, "warmup_share": 0.05, "schedule": "cosine", "weight_decay": 0.0},
        "out": folder / name,
    }
    return PretrainConfig.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("pretrain")
    rng = random.Random(0)
    (folder / "source.txt").write_text("\n".join(draw(rng) for _ in range(800)) + "\n")
    return folder, pretrain.run(config(folder, "straight"), QUIET)


def test_it_learns_the_source_to_near_its_entropy_rate(trained: tuple[Path, dict[str, Any]]) -> None:
    _, result = trained
    rate, found = entropy_rate(), result["held_out"]["nats_per_token"]
    # The sample's own entropy differs a little from the rate; below it nothing can be but by that chance.
    assert 0.96 * rate < found["value"] < 1.06 * rate
    assert found["low"] < found["value"] < found["high"]
    assert result["held_out"]["perplexity"]["value"] == pytest.approx(math.exp(found["value"]))
    assert result["loss_first"] > 5  # it knew nothing: log 259 = 5.56


def test_bits_per_byte_count_the_texts_bytes(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, result = trained
    _, held_out = pretrain.split((folder / "source.txt").read_text().splitlines(), 0.25, 3)
    tokens, size = sum(len(d) + 1 for d in held_out), sum(map(len, held_out))
    nats = result["held_out"]["nats_per_token"]["value"] * tokens
    assert result["held_out"]["documents"] == len(held_out) == 200
    assert result["held_out"]["bits_per_byte"]["value"] == pytest.approx(nats / math.log(2) / size)


def test_an_interrupted_run_ends_bit_identical(
    trained: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = trained
    own, done = Engine.step, []

    def step(self: Engine, *args: Any, **kwargs: Any) -> dict[str, float]:
        if len(done) == 13:
            raise KeyboardInterrupt
        done.append(1)
        return own(self, *args, **kwargs)

    pretrain.run(config(folder, "short", epochs=1), QUIET)
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", step)
        with pytest.raises(KeyboardInterrupt):
            pretrain.run(config(folder, "stopped", epochs=1), QUIET)
    pretrain.run(config(folder, "stopped", epochs=1), QUIET)
    straight, resumed = (folder / n / "model" / "model.safetensors" for n in ("short", "stopped"))
    assert straight.read_bytes() == resumed.read_bytes()


def test_it_goes_on_from_a_model_and_with_a_bpe(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, result = trained
    on = {"from_scratch": None, "model": result["model"], "epochs": 0.1}
    gentle = {"learning_rate": 1e-5}
    further = pretrain.run(config(folder, "further", **on, optim=gentle), QUIET)
    assert further["loss_first"] < 1.1 * entropy_rate()  # it begins where the other ended
    before, after = (
        load_file(folder / n / "model" / "model.safetensors")["model.norm.weight"]
        for n in ("straight", "further")
    )
    assert not torch.equal(before, after)
    shape = {"hidden_size": 32, "layers": 1, "heads": 2, "tokenizer": "bpe", "vocab_size": 300}
    pretrain.run(config(folder, "bpe", from_scratch=shape, epochs=0.1), QUIET)
    tokenizer = load_model(str(folder / "bpe" / "model")).tokenizer
    assert len(tokenizer) <= 300
    text = "abcabc Grüße 你好 <|im_end|>"
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert tokenizer.decode(ids) == text
    assert len(tokenizer("abcabcabc").input_ids) < 9


def test_a_special_tokens_name_in_a_text_is_plain_characters() -> None:
    from accord.models.scratch import byte_tokenizer

    tokenizer = byte_tokenizer()
    (piece,) = pretrain.cut(["a<|endoftext|>"], tokenizer, 64)
    end = tokenizer.eos_token_id
    assert piece.inputs[0] == piece.targets[-1] == end
    assert piece.targets.count(end) == 1
    assert (piece,) == tuple(pieces([piece.targets[:-1]], 64, start=end, end=end))


def test_settings_that_contradict_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="from a model or from scratch"):
        pretrain.check(config(tmp_path, "a", from_scratch=None))
    with pytest.raises(ConfigError, match="from a model or from scratch"):
        pretrain.check(config(tmp_path, "a", model="m"))
    with pytest.raises(ConfigError, match="remove lora"):
        pretrain.check(config(tmp_path, "a", lora={"r": 4}))
    (tmp_path / "source.txt").write_text("a\nb\nc\nd\n")
    bad = {"hidden_size": 30, "layers": 1, "heads": 4}
    with pytest.raises(ConfigError, match="even multiple of heads"):
        pretrain.run(config(tmp_path, "a", from_scratch=bad), QUIET)


def test_the_folder_of_results_is_whole(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, result = trained
    assert json.loads((folder / "straight" / "result.json").read_text()) == result
    record = json.loads((folder / "straight" / "model" / "accord.json").read_text())
    assert record["stage"] == "pretrain"
    assert record["tokens"] == sum(
        len(d) + 1 for d in pretrain.split((folder / "source.txt").read_text().splitlines(), 0.25, 3)[0]
    )
