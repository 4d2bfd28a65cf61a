"""Improve a policy from preferences that are there already: DPO and its relatives, KTO.

One step: a batch of prompts, each with all its answers in one row -> log π of every answer -> the method's
loss on what was said of them. The reference is the model as it was before the first step; its log-probs are
computed once (`reference.py`). The losses are in `accord.objectives`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from accord.config import KtoConfig, OfflineConfig, PairConfig
from accord.data.batches import GroupBatch, in_batches
from accord.data.render import Encoded
from accord.errors import ConfigError, DataError, NumericsError
from accord.evaluation.intervals import share
from accord.models.device import on_its_device
from accord.objectives import OFFLINE
from accord.objectives.kto import kl_baseline, kto_loss
from accord.objectives.pairs import PairLogps, chosen_nll
from accord.objectives.terms import add
from accord.records import Terms
from accord.stages.common import (
    Bench,
    data_hash,
    fingerprint,
    keep_fitting,
    mix_seed,
    open_bench,
    order,
    precision,
    save_policy,
    write_json,
)
from accord.stages.pairs import Judged, Pair, Verdict, read_pairs, read_verdicts, split_by_prompt
from accord.stages.reference import (
    answer_logps,
    open_reference,
    reference_logps,
    start_tolerance,
    weights_hash,
)
from accord.training.engine import Engine, ParameterGroup
from accord.training.lanes import lanes
from accord.training.run import Metrics, Run, run_steps

POLICY = "policy"


@dataclass(frozen=True)
class Row:
    """One prompt, ready to train on. `ref_logps_C` is log π_ref of each answer; 0 without a reference."""

    judged: Judged[Any]
    encoded: Encoded
    ref_logps_C: Tensor


@dataclass(frozen=True)
class Mismatched:
    """A prompt with the answers to another, one for each verdict on its own: KTO's measure of the KL."""

    encoded: Encoded
    ref_logps_C: Tensor


Part = tuple[GroupBatch, list[Row]]  # a micro-batch and the rows in it


@dataclass(frozen=True)
class Offline:
    """Everything that a step needs. `mismatched` runs parallel to `train` for KTO and is empty otherwise."""

    config: OfflineConfig
    bench: Bench
    engine: Engine
    train: Sequence[Row]
    mismatched: Sequence[Mismatched]
    steps: int

    def step(self, number: int) -> Metrics:
        chosen = order(len(self.train), self.config.batch_size, number, self.config.seed)
        rows = [self.train[i] for i in chosen]
        baseline = self.baseline([self.mismatched[i] for i in chosen] if self.mismatched else [])

        parts, starts = self.parts(rows), dict[int, Tensor]()
        if number == 0 and self.config.leashed:
            starts = {id(part): self.start(part) for part in parts}

        def loss(part: Part) -> Terms:
            logps_C, tokens_C = answer_logps(self.bench, POLICY, part[0])
            if id(part) in starts:
                start_C = starts[id(part)].to(logps_C)
                check_start(start_C, logps_C.detach(), tokens_C, start_tolerance(self.bench))
            return terms(self.config, part[1], logps_C, tokens_C, baseline)

        weight, progress = sum(row.judged.weight for row in rows), (number + 0.5) / self.steps
        return self.engine.step(parts, loss, count=weight, progress=progress)

    @torch.no_grad()
    def start(self, part: Part) -> Tensor:
        """Log-probs of the model that the policy starts from: the reference, unless another was given."""
        if self.config.reference is None:
            return torch.cat([row.ref_logps_C for row in part[1]])
        return answer_logps(self.bench, None, part[0])[0]

    def parts(self, rows: Sequence[Row]) -> list[Part]:
        encoded, tokens = [row.encoded for row in rows], self.config.optim.tokens_per_microbatch
        return [
            (batch, [rows[i] for i in part])
            for part, batch in in_batches(encoded, tokens, shared=self.bench.shared, lanes=lanes())
        ]

    @torch.no_grad()
    def baseline(self, rows: Sequence[Mismatched]) -> float:
        """KTO's z₀ over all of `rows`, so that no micro-batch has one of its own; 0 where there are none."""
        if not rows:
            return 0.0
        encoded, tokens = [row.encoded for row in rows], self.config.optim.tokens_per_microbatch
        logps, refs = [], []
        for part, batch in in_batches(encoded, tokens, shared=self.bench.shared):
            logps.append(answer_logps(self.bench, POLICY, batch)[0])
            refs += [rows[i].ref_logps_C for i in part]
        return float(kl_baseline(torch.cat(logps), torch.cat(refs)))

    @torch.no_grad()
    def grade(self, rows: Sequence[Row], mismatched: Sequence[Mismatched]) -> dict[str, Any]:
        """Mean loss and accuracy on rows that were not trained on, with an interval over their prompts.

        Accuracy is the loss's own: the share of pairs whose chosen answer has the higher implicit reward;
        for KTO, of answers on the right side of the baseline.
        """
        baseline = self.baseline(mismatched)
        right, losses, prompts = [], [], []
        for batch, members in self.parts(rows):
            logps_C, tokens_C = answer_logps(self.bench, POLICY, batch)
            sizes = [len(row.encoded.completion_ids) for row in members]
            for row, own_C, lengths_C in zip(
                members, logps_C.split(sizes), tokens_C.split(sizes), strict=True
            ):
                for said in row.judged.said:
                    single = replace(row, judged=replace(row.judged, said=(replace(said, weight=1.0),)))
                    found = terms(self.config, [single], own_C, lengths_C, baseline).metrics
                    right.append(float(found["rewards/accuracies"][0]))
                    losses.append(float(found["loss/preference_avg"][0]))
                    prompts.append(row.judged.group.prompt.id)
        accuracy = share(right, prompts, seed=self.config.seed)
        return {
            "prompts": len(rows),
            "accuracy": accuracy.to_json(),
            "loss": sum(losses) / len(losses),
        }


@on_its_device
def run(config: OfflineConfig, console: Console) -> dict[str, Any]:
    """Train, and write `out/model` (a Hugging Face folder), `out/metrics.jsonl` and `out/result.json`."""
    if config.reference is not None and not config.leashed:
        raise ConfigError(f"--reference: {config.method} has none; leave it out, or use dpo")
    read: Any = read_verdicts if isinstance(config, KtoConfig) else read_pairs
    judged: list[Judged[Any]] = read(config.data, config.strict, console)
    bench = open_bench(config.model, precision(config.dtype, config.lora))
    kept = keep_fitting(
        judged, lambda j: bench.renderer.group(j.group), config.max_length, "prompts", console
    )
    state, held_out, mismatched = build(config, bench, kept, console)
    said = [repr(row.judged.said) for row in state.train]
    job = Run(
        config.out,
        config.method,
        state.steps,
        config.checkpoint_every,
        fingerprint(config, config.method, data_hash(row.encoded for row in state.train), said),
        headline=("loss", "rewards/accuracies", "rewards/margins"),
    )
    rows = run_steps(job, state.engine, state.step, console)
    record = {
        "stage": config.method,
        "base": config.model,
        "reference": config.reference or config.model if config.leashed else None,
        "data": config.data,
        "prompts": len(state.train),
        "verdicts" if isinstance(config, KtoConfig) else "pairs": sum(
            len(r.judged.said) for r in state.train
        ),
        "steps": len(rows),
    }
    save_policy(bench, POLICY, config.out / "model", how=config.save, record=record)
    result = {
        **record,
        "loss_first": rows[0]["loss"],
        "loss_last": rows[-1]["loss"],
        "held_out": state.grade(held_out, mismatched) if held_out else None,
        "model": str(config.out / "model"),
    }
    write_json(config.out / "result.json", result)
    return result


def build(
    config: OfflineConfig, bench: Bench, kept: Sequence[tuple[Judged[Any], Encoded]], console: Console
) -> tuple[Offline, list[Row], list[Mismatched]]:
    """(what trains, the held-out rows, KTO's mismatched rows for those)."""
    train, held_out = split_by_prompt(kept, config.held_out, config.seed)
    if not train:
        raise DataError(f"{config.data}: all prompts are held out; lower held_out, or give more data")
    encoded = [e for _, e in (*train, *held_out)]
    strange: list[Encoded] = []
    if isinstance(config, KtoConfig):
        strange = mismatch((*train, *held_out), len(train), config.max_length)
        check_balance(config, [v for judged, _ in train for v in judged.said], console)
    if config.leashed:
        dtype = precision(config.dtype, config.lora)
        held_to = bench if config.reference is None else open_reference(config.reference, bench, dtype)
        refs = reference_logps(
            held_to,
            [*encoded, *strange],
            weights=weights_hash(held_to.loaded.model),
            tokens=config.optim.tokens_per_microbatch,
            path=config.out / "reference.safetensors",
            console=console,
        )
    else:
        refs = [torch.zeros(len(e.completion_ids)) for e in encoded]
    n, total = len(train), len(encoded)
    rows = [Row(judged, e, ref) for (judged, e), ref in zip((*train, *held_out), refs[:total], strict=True)]
    mismatched = [Mismatched(e, ref) for e, ref in zip(strange, refs[total:], strict=True)]
    # Only now, since the bare trunk's weights have the names under which they are hashed.
    bench.trunk.add(POLICY, config.lora, seed=mix_seed(config.seed, 6))
    policy = ParameterGroup(bench.trunk.parameters(POLICY), config.optim.learning_rate)
    steps = max(1, math.ceil(config.epochs * n / config.batch_size))
    state = Offline(config, bench, Engine({POLICY: policy}, config.optim), rows[:n], mismatched[:n], steps)
    return state, rows[n:], mismatched[n:]


def terms(
    config: OfflineConfig, rows: Sequence[Row], logps_C: Tensor, tokens_C: Tensor, baseline: float
) -> Terms:
    """The method's loss on everything that was said of the rows' answers, whose log-probs are `logps_C`."""
    ref_C = torch.cat([row.ref_logps_C for row in rows]).to(logps_C)
    offsets = [0]
    for row in rows:
        offsets.append(offsets[-1] + len(row.encoded.completion_ids))
    said = [(offset, s) for offset, row in zip(offsets, rows, strict=False) for s in row.judged.said]
    weight = torch.tensor([s.weight for _, s in said]).to(logps_C)
    if isinstance(config, KtoConfig):
        verdicts: list[tuple[int, Verdict]] = said
        answer = torch.tensor([offset + v.answer for offset, v in verdicts])
        good = torch.tensor([v.good for _, v in verdicts])
        own = config.own()
        return kto_loss(
            logps_C[answer], ref_C[answer], good_C=good, baseline=baseline, weight_C=weight, **own
        )
    pairs: list[tuple[int, Pair]] = said
    chosen_P = torch.tensor([offset + p.chosen for offset, p in pairs])
    rejected_P = torch.tensor([offset + p.rejected for offset, p in pairs])
    compared = PairLogps(
        logps_C[chosen_P],
        logps_C[rejected_P],
        ref_C[chosen_P],
        ref_C[rejected_P],
        tokens_C[chosen_P],
        tokens_C[rejected_P],
        weight_P=weight,
        margin_P=torch.tensor([p.margin for _, p in pairs]).to(logps_C),
    )
    loss = OFFLINE[config.method](compared, **config.own())
    if isinstance(config, PairConfig) and config.sft_coef:
        return add(loss, chosen_nll(compared), config.sft_coef)
    return loss


def mismatch(rows: Sequence[tuple[Judged[Any], Encoded]], n_train: int, max_length: int) -> list[Encoded]:
    """For each row its prompt with the answers of the next training row, each once however often judged.

    An answer that would make the row too long is cut; a beginning serves as well. Raises DataError for a
    single prompt, which has no other.
    """
    if n_train < 2:
        raise DataError(
            "KTO needs at least two prompts to train on: its KL baseline pairs each with another's"
        )
    found = []
    for i, (_, encoded) in enumerate(rows):
        others = rows[(i + 1) % n_train][1].completion_ids
        room = max_length - len(encoded.prompt_ids)
        found.append(Encoded(encoded.prompt_ids, tuple(answer[:room] for answer in others)))
    return found


def check_balance(config: KtoConfig, verdicts: Sequence[Verdict], console: Console) -> None:
    """Say so when good and bad answers pull unequally: the paper wants a ratio between 1 and 4/3."""
    good, bad = (sum(v.weight for v in verdicts if v.good is kind) for kind in (True, False))
    if not good or not bad:
        console.print(f"[yellow]all answers are {'good' if good else 'bad'}: KTO works best with both kinds")
        return
    ratio = config.desirable_weight * good / (config.undesirable_weight * bad)
    if not 0.99 <= ratio <= 4 / 3 + 0.01:
        better = config.undesirable_weight * bad / good
        console.print(
            f"[yellow]good answers pull {ratio:.2f} times as strongly as bad ones; 1 to 1.33 is advised: "
            f"--desirable_weight {better:.2g} would balance them"
        )


def check_start(start_C: Tensor, logps_C: Tensor, tokens_C: Tensor, tolerance: float) -> None:
    """Before the first step the policy is the model it starts from, which is its reference unless another was
    given. Raises NumericsError when it is not, to rounding.
    """
    gap = float(((logps_C - start_C).abs() / tokens_C).max())
    if not gap <= tolerance:
        raise NumericsError(
            f"at step 0 the policy differs from its reference by {gap:.2e} nats a token; delete "
            "reference.safetensors in the output folder if it was copied there, else this is a defect"
        )
