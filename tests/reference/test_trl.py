"""The same rows, weights and steps through TRL's trainers and through our stages: the same losses.

Three optimiser steps each, so that equal losses at the second and third mean equal gradients at the first and
second. TRL lies in a folder of its own, which `make test` fills. test_trl_offline.py and test_trl_online.py
compare the losses alone, on planted log-probabilities.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from accord.data.render import Renderer
from accord.models.heads import ScalarHead
from accord.records import Preference, Prompt
from tiny import tiny_llama, tiny_tokenizer

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path += [str(BENCHMARKS), str(BENCHMARKS / ".peers" / "trl-1.16.0")]
pytest.importorskip("trl", reason="TRL is not here (`make test` installs it)")

from speed import rows  # noqa: E402
from speed.ours import OURS  # noqa: E402
from speed.peers import PEERS  # noqa: E402
from speed.task import Task  # noqa: E402

STEPS = 3
PAIRS = [("Say one.", "one " * 9, "no"), ("And two?", "two", "n " * 5), ("Three or four", "three", "four!")]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("trl")
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>", "<one>", "<two>"]})
    tiny_llama(vocab=len(tokenizer)).save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    model = rows.write_model(str(folder / "tiny"), folder / "model", "float32")
    made = [Preference(Prompt.of(prompt), chosen, rejected) for prompt, chosen, rejected in PAIRS]
    data = rows.write(folder / "data", made, Renderer(PreTrainedTokenizerFast.from_pretrained(model)))
    return Task("", str(model), str(data), steps=STEPS - 1, lora=False)


@pytest.fixture
def equal_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """peft draws the adapters' A matrices with this function; each side would draw its own."""

    def fill(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        with torch.no_grad():
            return tensor.copy_(0.1 * torch.arange(tensor.numel()).cos().reshape(tensor.shape))

    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", fill)


@pytest.mark.usefixtures("equal_adapters")
@pytest.mark.parametrize(
    ("work", "lora"), [("sft", False), ("sft", True), ("dpo", False), ("dpo", True), ("dpo-cached", True)]
)
def test_losses_and_gradients_are_trls(work: str, lora: bool, task: Task) -> None:
    assert_equals_trl(replace(task, work=work, lora=lora), task.model)


@pytest.mark.usefixtures("equal_adapters")
def test_reward_losses_and_gradients_are_trls(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both heads start alike (each side draws its own otherwise)."""
    classifier = AutoModelForSequenceClassification.from_pretrained(task.model, num_labels=1)
    classifier.save_pretrained(tmp_path)
    PreTrainedTokenizerFast.from_pretrained(task.model).save_pretrained(tmp_path)

    def same_head(size: int, **settings: Any) -> ScalarHead:
        head = ScalarHead(size, **settings)
        with torch.no_grad():
            head.weight.copy_(classifier.score.weight.reshape(head.weight.shape))
        return head

    monkeypatch.setattr("accord.stages.reward.ScalarHead", same_head)
    assert_equals_trl(replace(task, work="reward", lora=True), str(tmp_path))


def assert_equals_trl(task: Task, their_model: str) -> None:
    ours, theirs = OURS[task.work](task), PEERS[task.work](replace(task, model=their_model))
    assert ours.tokens == theirs.tokens
    assert len(ours.losses) == len(theirs.losses) == STEPS
    assert ours.losses == pytest.approx(theirs.losses, rel=2e-5)
    assert ours.losses[0] - ours.losses[-1] > 1e-3  # it did learn: the comparison says something
