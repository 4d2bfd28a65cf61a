"""Next-token training on plain text: from scratch, or continued from a model."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from accord.config.pretrain import FromScratch, PretrainConfig
from accord.data.batches import GroupBatch
from accord.data.packing import Piece, Row, collate_rows, microbatches, pack, pieces
from accord.data.texts import load_texts
from accord.errors import ConfigError, DataError, ModelError
from accord.evaluation.intervals import Interval, cluster_bootstrap
from accord.models.device import on_its_device
from accord.models.forward import hidden_states, token_logps
from accord.models.load import load_model
from accord.models.quiet import quietly
from accord.models.scratch import bpe_tokenizer, byte_tokenizer, new_llama
from accord.objectives.sft import nll
from accord.records import Terms, content_hash
from accord.stages.common import (
    Bench,
    announce,
    fingerprint,
    mix_seed,
    new_folder,
    open_bench,
    order,
    precision,
    read_record,
    save_policy,
    write_json,
)
from accord.training.distributed import wait
from accord.training.engine import Engine, ParameterGroup
from accord.training.run import Metrics, Run, run_steps

POLICY = "policy"


@on_its_device
def run(config: PretrainConfig, console: Console) -> dict[str, Any]:
    """Train, and write `out/model` (a Hugging Face folder), `out/metrics.jsonl` and `out/result.json`."""
    check(config)
    loaded = load_texts(config.data, documents=config.documents, strict=config.strict)
    announce(loaded, "texts", console)
    train, held_out = split(loaded.rows, config.held_out, config.seed)
    source = start_folder(config, train) if config.from_scratch is not None else str(config.model)
    bench = open_bench(source, precision(config.dtype, config.lora))
    bench.trunk.add(POLICY, config.lora, seed=mix_seed(config.seed, 1))
    parts = cut(train, bench.loaded.tokenizer, config.length)
    rows = pack(parts, config.length, shared=bench.shared)
    history = _fit(config, bench, rows, console)
    record = {
        "stage": "pretrain",
        "base": config.model or "from scratch",
        "data": config.data,
        "documents": len(train),
        "tokens": sum(len(p.targets) for p in parts),
        "rows": len(rows),
        "steps": len(history),
    }
    save_policy(bench, POLICY, config.out / "model", how=config.save, record=record)
    result = {
        **record,
        "loss_first": history[0]["loss"],
        "loss_last": history[-1]["loss"],
        "held_out": grade(config, bench, held_out) if held_out else None,
        "model": str(config.out / "model"),
    }
    write_json(config.out / "result.json", result)
    return result


def check(config: PretrainConfig) -> None:
    if (config.model is None) == (config.from_scratch is None):
        raise ConfigError(
            "pretrain starts from a model or from scratch: give --model NAME, or "
            "--from_scratch.hidden_size N (or another of its settings), and not both"
        )
    if config.from_scratch is not None and (config.lora is not None or config.save == "adapter"):
        raise ConfigError("a model from scratch trains all its weights; remove lora and save: adapter")


def split(documents: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """(train, held out), by document."""
    shuffled = list(range(len(documents)))
    random.Random(seed).shuffle(shuffled)
    held_out = set(shuffled[: round(share * len(shuffled))])
    if len(held_out) == len(documents):
        raise DataError(f"all {len(documents)} documents are held out; lower held_out")
    train = [d for i, d in enumerate(documents) if i not in held_out]
    return train, [d for i, d in enumerate(documents) if i in held_out]


def start_folder(config: PretrainConfig, texts: Sequence[str]) -> str:
    """The new model with random weights, as a folder beside the results; made once."""
    shape, folder = config.from_scratch, config.out / "start"
    assert shape is not None
    made_of = content_hash([shape.model_dump(), config.length, config.seed, list(texts)])
    if read_record(folder).get("made_of") != made_of:
        wait()  # all processes have looked
        tokenizer = _tokenizer(shape, texts)
        model = new_llama(shape, tokenizer, length=config.length, seed=mix_seed(config.seed, 7))
        with new_folder(folder) as new, quietly():
            model.save_pretrained(new)
            tokenizer.save_pretrained(new)
            (new / "accord.json").write_text(json.dumps({"stage": "start", "made_of": made_of}))
    return str(folder)


def _tokenizer(shape: FromScratch, texts: Sequence[str]) -> PreTrainedTokenizerBase:
    if shape.tokenizer == "bytes":
        return byte_tokenizer()
    if shape.tokenizer == "bpe":
        return bpe_tokenizer(texts, shape.vocab_size)
    return load_model(shape.tokenizer).tokenizer


def cut(documents: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int) -> list[Piece]:
    """Tokens of the documents, between the tokens that this tokenizer puts around a text.

    A text starts with the tokenizer's own first token (BOS) if it adds one, else with the end token of the
    text before. A special token's name inside a text is plain characters.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise ModelError("the tokenizer has no eos token, so no text could end; set `eos_token`")
    first = tokenizer("a").input_ids[0]
    start = first if first == tokenizer.bos_token_id else end
    encoded = [tokenizer(d, add_special_tokens=False, split_special_tokens=True).input_ids for d in documents]
    return pieces(encoded, length, start=start, end=end)


def _fit(config: PretrainConfig, bench: Bench, rows: Sequence[Row], console: Console) -> list[Metrics]:
    policy = ParameterGroup(bench.trunk.parameters(POLICY), config.optim.learning_rate)
    engine = Engine({POLICY: policy}, config.optim)
    n_steps = max(1, math.ceil(config.epochs * len(rows) / config.batch_size))

    def loss(batch: GroupBatch) -> Terms:
        with bench.trunk.use(POLICY) as model:
            hidden_FD = hidden_states(model, batch)
            logps_CT, _ = token_logps(model, hidden_FD, batch.where_CT, batch.targets_CT, batch.mask_CT)
        return nll(logps_CT, batch.mask_CT)

    def step(number: int) -> Metrics:
        chosen = [rows[i] for i in order(len(rows), config.batch_size, number, config.seed)]
        batches = [
            collate_rows(part, shared=bench.shared)
            for part in microbatches(chosen, config.optim.tokens_per_microbatch)
        ]
        tokens = sum(len(p.targets) for row in chosen for p in row)
        metrics = engine.step(batches, loss, count=tokens, progress=(number + 0.5) / n_steps)
        return {**metrics, "tokens": tokens}

    data = content_hash([[[p.inputs, p.targets[-1]] for p in row] for row in rows])
    job = Run(config.out, "pre-training", n_steps, config.checkpoint_every, fingerprint(config, data))
    return run_steps(job, engine, step, console)


@torch.no_grad()
def grade(config: PretrainConfig, bench: Bench, documents: Sequence[str]) -> dict[str, Any]:
    """Perplexity per token and bits per byte of documents that were not trained on, with 95 % intervals.

    The bits include those for the end of each document; the bytes are those of its text as UTF-8. Whole
    documents are resampled.
    """
    parts = cut(documents, bench.loaded.tokenizer, config.length)
    rows = pack(parts, config.length, shared=bench.shared)
    nats, tokens = np.zeros(len(documents)), np.zeros(len(documents))
    for some in microbatches(rows, config.optim.tokens_per_microbatch):
        batch = collate_rows(some, shared=bench.shared)
        with bench.trunk.use(POLICY) as model:
            hidden_FD = hidden_states(model, batch)
            logps_CT, _ = token_logps(model, hidden_FD, batch.where_CT, batch.targets_CT, batch.mask_CT)
        for row, logps_T in zip(some, logps_CT, strict=True):
            sizes = [len(p.inputs) for p in row]
            for piece, own in zip(row, logps_T[: sum(sizes)].split(sizes), strict=True):
                nats[piece.document] -= float(own.sum())
                tokens[piece.document] += len(own)
    size = np.array([len(d.encode()) for d in documents])

    def interval(per: np.ndarray, unit: float) -> Interval:
        return cluster_bootstrap(
            lambda w_BN: (w_BN @ nats) / (w_BN @ per) / unit,
            range(len(documents)),
            seed=config.seed,
            bounds=(0.0, math.inf),
        )

    found = interval(tokens, 1.0)
    perplexity = Interval(
        math.exp(found.value),
        math.exp(found.low),
        math.exp(found.high) if math.isfinite(found.high) else math.inf,
        found.n,
        found.note,
    )
    return {
        "documents": len(documents),
        "nats_per_token": found.to_json(),
        "perplexity": perplexity.to_json(),
        "bits_per_byte": interval(size, math.log(2)).to_json(),
    }
