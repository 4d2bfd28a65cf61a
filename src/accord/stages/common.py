"""What the stages share: opening a model, keeping rows that fit, naming a run, saving a policy."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel
from rich.console import Console
from safetensors import SafetensorError

from accord.config import Lora
from accord.data.datasets import Loaded
from accord.data.render import Encoded, Renderer
from accord.errors import DataError, ModelError
from accord.models.adapters import Trunk
from accord.models.device import here, on_cpu
from accord.models.forward import check_logits, supports_block_mask
from accord.models.load import LoadedModel, load_model
from accord.models.quiet import quietly
from accord.models.sharded import shard
from accord.records import content_hash
from accord.training.checkpoint import write_atomically
from accord.training.distributed import leads, splits, wait

T = TypeVar("T")
SHOWN = 20  # bad rows that are listed before the rest is only counted


@dataclass(frozen=True)
class Bench:
    """A model laid out for work: the trunk with its adapters, and the one renderer."""

    loaded: LoadedModel
    trunk: Trunk
    renderer: Renderer
    shared: bool  # whether the model can take several completions in one row

    @property
    def hidden_size(self) -> int:
        return int(self.loaded.model.config.hidden_size)


def open_bench(model: str, dtype: str) -> Bench:
    gc.collect()  # the last stage's model may still wait in a reference cycle
    loaded = load_model(model, dtype=dtype, device=on_cpu() if splits() else None)
    if splits():  # only its own part goes to a process's GPU
        shard(loaded.model, here())
    check_logits(loaded.model)
    return Bench(loaded, Trunk(loaded.model), Renderer(loaded.tokenizer), supports_block_mask(loaded.model))


def precision(dtype: str, lora: Lora | None) -> str:
    """What to load a model as that is trained: "auto" stays float32 where all weights are, since small
    updates of bfloat16 weights are rounded away."""
    return "float32" if dtype == "auto" and lora is None else dtype


def announce(loaded: Loaded[Any], kind: str, console: Console) -> None:
    """Say how many rows are used, and name every row that is not (the first 20) with its place and reason."""
    lines = [loaded.summary(), *(f"  {p.file}:{p.line}: {p.what}" for p in loaded.problems[:SHOWN])]
    if len(loaded.problems) > SHOWN:
        more = len(loaded.problems) - SHOWN
        lines.append(f"  and {more:,} more; `accord check {loaded.source} --kind {kind}` lists them all")
    for line in lines:  # rows are other people's text: no markup, and no wrapping inside a path
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def keep_fitting(
    rows: Sequence[T], encode: Callable[[T], Encoded], max_length: int, what: str, console: Console
) -> list[tuple[T, Encoded]]:
    """Encode rows and leave out, with a count, those longer than `max_length` tokens.

    Raises DataError if nothing is left.
    """
    encoded = [(row, encode(row)) for row in rows]
    kept = [(r, e) for r, e in encoded if len(e.prompt_ids) + max(map(len, e.completion_ids)) <= max_length]
    if len(kept) < len(rows):
        console.print(
            f"[yellow]{len(rows) - len(kept)} of {len(rows)} {what} are longer than max_length = "
            f"{max_length} tokens and are left out; raise it to use them"
        )
    if not kept:
        raise DataError(f"all {len(rows)} {what} are longer than max_length = {max_length} tokens; raise it")
    return kept


def fingerprint(config: BaseModel, *parts: Any) -> str:
    """Ties a checkpoint to the settings and data that made it (not to where it lies)."""
    settings = json.loads(config.model_dump_json(exclude={"out", "checkpoint_every", "device"}))
    return content_hash([settings, *parts])


def data_hash(encoded: Iterable[Encoded]) -> str:
    digest = hashlib.sha256()
    for group in encoded:
        digest.update(repr((group.prompt_ids, group.completion_ids)).encode())
    return digest.hexdigest()[:32]


def order(n: int, size: int, step: int, seed: int) -> list[int]:
    """Indices of step `step`'s batch of `size`, from a stream of shuffled passes over n rows.

    A pure function of its arguments, so a resumed run needs no iterator state.
    """
    found: list[tuple[int, int]] = []
    for position in range(step * size, (step + 1) * size):
        epoch, offset = divmod(position, n)
        if offset == 0 or not found or found[-1][0] != epoch:
            generator = torch.Generator().manual_seed(_mix(seed, epoch))
            permutation = torch.randperm(n, generator=generator, device="cpu").tolist()
        found.append((epoch, permutation[offset]))
    return [index for _, index in found]


def _mix(*numbers: int) -> int:
    return int(content_hash(list(numbers))[:15], 16)


mix_seed = _mix


def save_policy(bench: Bench, name: str, out: Path, *, how: str, record: dict[str, Any]) -> None:
    """Write the trained policy to `out` as a plain Hugging Face folder ("merged") or a peft one ("adapter").

    `record` becomes accord.json there: what the model was made from. The folder appears at once or not
    at all. Of several processes the first writes.
    """
    parts = bench.trunk.weights(name) if how == "merged" else ()
    weights = {key: tensor for key, tensor in parts if leads()}  # all processes put them together
    if not leads():
        return wait()
    with new_folder(out) as folder, quietly():
        if how == "adapter":
            bench.trunk.save_adapter(name, folder)
        else:
            bench.trunk.save(name, folder, weights)
        bench.loaded.tokenizer.save_pretrained(folder)
        (folder / "accord.json").write_text(json.dumps(record, indent=1))


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends well and vanishes when it does not.

    Of several processes the first fills it; the others fill a folder that is thrown away, and all go on
    when it is there. Raises ModelError when the disk refuses.
    """
    if not leads():
        with tempfile.TemporaryDirectory() as spare:
            yield Path(spare)
        return wait()
    temporary = out.with_name(f".{out.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        shutil.rmtree(out, ignore_errors=True)
        temporary.replace(out)
        wait()
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{out}: could not be written ({error}); make room and run again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Strict JSON, atomically: numbers that are not finite become null."""
    write_atomically(path, json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """`value` with None in place of NaN and infinities, at any depth."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_record(folder: Path) -> dict[str, Any]:
    """accord.json of a model folder, or an empty dict for a model from elsewhere."""
    path = folder / "accord.json"
    return json.loads(path.read_text()) if path.is_file() else {}
