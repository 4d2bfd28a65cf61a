"""The reference's log-probabilities of fixed answers: computed once, kept beside the run, used again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from accord.data.batches import GroupBatch, in_batches
from accord.data.render import Encoded
from accord.errors import CheckpointError, ModelError
from accord.models.forward import hidden_states, token_logps
from accord.models.sharded import whole
from accord.records import content_hash
from accord.stages.common import Bench, data_hash, open_bench
from accord.training.lanes import each, lanes
from accord.training.run import counting


def answer_logps(bench: Bench, name: str | None, batch: GroupBatch) -> tuple[Tensor, Tensor]:
    """(log π(y|x), |y|) of each answer of a batch as seen through adapter `name`, both (C,)."""
    with bench.trunk.use(name) as model:
        logps_CT, _ = token_logps(
            model, hidden_states(model, batch), batch.where_CT, batch.targets_CT, batch.mask_CT
        )
    return logps_CT.sum(1), batch.mask_CT.sum(1).to(logps_CT)


def reference_logps(
    bench: Bench, encoded: Sequence[Encoded], *, weights: str, tokens: int, path: Path, console: Console
) -> list[Tensor]:
    """log π_ref of each group's answers, a (C,) tensor per group; π_ref is the trunk without an adapter.

    Kept in `path` under a key made of the model's weights (`weights_hash`) and of the tokens, so a resumed
    run reads what the first one computed, and another model or other data never do. `tokens` bounds a
    micro-batch. Raises CheckpointError when the disk refuses.
    """
    key = content_hash([weights, data_hash(encoded)])
    logps_C = _read(path, key)
    if logps_C is None:
        logps_C = _compute(bench, encoded, tokens, console)
        _write(path, key, logps_C)
    return list(logps_C.split([len(e.completion_ids) for e in encoded]))


def open_reference(name: str, policy: Bench, dtype: str) -> Bench:
    """Another reference than the model that the policy starts from. Raises ModelError for other tokens."""
    bench = open_bench(name, dtype)
    if bench.loaded.tokenizer.get_vocab() != policy.loaded.tokenizer.get_vocab():
        raise ModelError(
            f"{name}: this reference has another tokenizer than {policy.loaded.name}; give a "
            "model of the same family"
        )
    return bench


def start_tolerance(bench: Bench) -> float:
    """By how many nats a token two passes of one model may differ: rounding, coarse in half precision."""
    return 1e-3 if bench.loaded.model.dtype in (torch.float32, torch.float64) else 0.2


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of a model's weights, by name; the same whether they are sharded or not."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        values: Any = whole(tensor.detach()).cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(values)
    return digest.hexdigest()


@torch.no_grad()
def _compute(bench: Bench, encoded: Sequence[Encoded], tokens: int, console: Console) -> Tensor:
    found: dict[int, Tensor] = {}

    def logps(item: tuple[Sequence[int], GroupBatch]) -> dict[int, Tensor]:
        part, batch = item
        logps_C, _ = answer_logps(bench, None, batch)
        return dict(zip(part, logps_C.split([len(encoded[i].completion_ids) for i in part]), strict=True))

    with counting(console, "reference", len(encoded), "prompts") as report:
        parts = in_batches(encoded, tokens, shared=bench.shared, lanes=lanes())
        while side_by_side := list(islice(parts, lanes())):  # made as they are needed
            for own in each(logps, side_by_side):
                found |= own
            report(len(found), len(encoded))
    return torch.cat([found[i] for i in range(len(encoded))])


def _read(path: Path, key: str) -> Tensor | None:
    """What is kept under `key`; None when nothing is, or it cannot be read: then it is computed again."""
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor("logps_C") if (file.metadata() or {}).get("key") == key else None
    except (OSError, SafetensorError):
        return None


def _write(path: Path, key: str, logps_C: Tensor) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"logps_C": logps_C.contiguous()}, temporary, metadata={"key": key})
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path}: the reference's log-probabilities could not be written ({error}); make room and run "
            "the command again"
        ) from error
