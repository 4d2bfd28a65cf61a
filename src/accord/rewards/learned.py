"""Learned rewards: an adapter and a scalar head on a trunk, or any Hugging Face sequence classifier."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from accord.data.batches import GroupBatch
from accord.errors import ModelError
from accord.models.adapters import Trunk
from accord.models.device import here, on_cpu
from accord.models.forward import hidden_states
from accord.models.heads import POOLINGS, ScalarHead, pooled_size
from accord.records import Group
from accord.rewards.scorer import Scores

ADAPTER = "reward"


@dataclass(frozen=True)
class TrunkReward:
    """r(x, y) = head(hidden states of y), read through the reward adapter on `trunk`.

    `pooling`: the last token's state, as is usual, or that and the mean over the answer (see POOLINGS).
    `layers`: after how many of the trunk's layers it is read; None for all. What a judge needs stands in the
    middle of a language model; its last layers turn to the choice of the next token.
    """

    trunk: Trunk
    head: ScalarHead
    pooling: str = "last"
    layers: int | None = None
    adapter: str = ADAPTER

    def pooled(self, hidden_FD: Tensor, batch: GroupBatch) -> Tensor:
        """What the head reads, (C, D) or (C, 2 D)."""
        return POOLINGS[self.pooling](hidden_FD[batch.stands_CT], batch.mask_CT)

    def forward(self, batch: GroupBatch) -> Scores:
        """With gradients, for training."""
        with self.trunk.use(self.adapter) as model:
            hidden_FD = hidden_states(model, batch, layers=self.layers)
        return Scores(self.head(self.pooled(hidden_FD, batch)), hidden_FD)

    @torch.no_grad()
    def __call__(self, groups: Sequence[Group], batch: GroupBatch) -> Scores:
        return self.forward(batch)

    def save(self, folder: Path) -> None:
        """A peft folder with `head.safetensors` beside the adapter."""
        self.trunk.save_adapter(self.adapter, folder)
        tensors = {k: v.contiguous() for k, v in self.head.state_dict().items()}
        metadata = {"pooling": self.pooling} | ({"layers": str(self.layers)} if self.layers else {})
        save_file(tensors, folder / "head.safetensors", metadata=metadata)


def load_trunk_reward(folder: Path, trunk: Trunk, hidden_size: int, *, number: int = 0) -> TrunkReward:
    """Read what `TrunkReward.save` wrote onto `trunk`, which must be the model it was trained on.

    `number` tells several reward models on one trunk apart.
    """
    adapter = f"{ADAPTER}-{number}" if number else ADAPTER
    try:
        with safe_open(folder / "head.safetensors", "pt") as file:
            metadata = file.metadata() or {}
            layers, pooling = metadata.get("layers"), metadata.get("pooling", "last")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        with trunk.use(None) as model:
            dtypes = [model.dtype, *(tensor.dtype for tensor in tensors.values())]
        dtype = reduce(torch.promote_types, dtypes, torch.float32)
        head = ScalarHead(pooled_size(pooling, hidden_size), dtype=dtype)
        head.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(f"{folder}/head.safetensors: the reward head cannot be read ({error})") from error
    trunk.load(adapter, folder)
    head.requires_grad_(False)
    return TrunkReward(trunk, head, pooling, int(layers) if layers else None, adapter)


@dataclass(frozen=True)
class ClassifierReward:
    """Any Hugging Face sequence classifier with one output, with its own tokenizer and template."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 16

    @torch.no_grad()
    def __call__(self, groups: Sequence[Group], batch: GroupBatch) -> Scores:
        texts = [self._text(group, c.text) for group in groups for c in group.completions]
        scores: list[Tensor] = []
        for start in range(0, len(texts), self.batch_size):
            inputs = self.tokenizer(
                texts[start : start + self.batch_size],
                return_tensors="pt",
                padding=True,
                add_special_tokens=False,
            )
            scores.append(self.model(**inputs.to(self.model.device)).logits.squeeze(-1).float())
        return Scores(torch.cat(scores))

    def _text(self, group: Group, answer: str) -> str:
        turns = [{"role": m.role, "content": m.content} for m in group.prompt.messages]
        turns.append({"role": "assistant", "content": answer})
        if self.tokenizer.chat_template:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False))
        return "\n".join(f"{t['role']}: {t['content']}" for t in turns)


def load_classifier_reward(folder: str) -> ClassifierReward:
    """A Hugging Face folder or hub id whose classifier has exactly one output."""
    try:
        config_labels = _number_of_labels(folder)
        with on_cpu():
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32
            )
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: not readable as a reward model ({error})") from error
    if config_labels != 1:
        raise ModelError(
            f"{folder}: this classifier has {config_labels} outputs; a reward model has exactly one "
            "(num_labels = 1)"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id  # else the wrong token would be scored
    tokenizer.padding_side = "right"
    return ClassifierReward(model.eval().requires_grad_(False).to(here()), tokenizer)


def _number_of_labels(folder: str) -> int:
    path = Path(folder) / "config.json"
    if not path.is_file():
        return 1
    config = json.loads(path.read_text())
    if "num_labels" in config:
        return int(config["num_labels"])
    return len(config.get("id2label", {0: "", 1: ""}))
