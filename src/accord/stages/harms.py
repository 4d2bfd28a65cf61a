"""Pairs of answers for a cost model: which is the more harmful, and which are unsafe at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from rich.console import Console
from torch import Tensor

from accord.data.safety import load_safety
from accord.errors import DataError
from accord.rewards.probe import fit_probe
from accord.stages.common import announce
from accord.stages.compared import Compared, Comparison
from accord.stages.pairs import Judged, gather, in_ledger


@dataclass(frozen=True)
class Harm:
    """Two of a prompt's answers, by their places in the group; `label` is P(the first is the worse one)."""

    worse: int
    better: int
    label: float
    unsafe: tuple[bool, bool]  # of the worse and of the better one
    weight: float = 1.0


def read_harms(source: str, strict: bool, console: Console) -> list[Judged[Harm]]:
    """Pairs with labels of harm from a file, a folder or a hub name, gathered by prompt."""
    if in_ledger(source):
        raise DataError(
            f"{source}: a ledger's release does not say which answers are unsafe, which loss: cost needs; "
            "give rows with chosen_unsafe and rejected_unsafe"
        )
    loaded = load_safety(source, strict=strict)
    announce(loaded, "pairs with labels of harm", console)
    return gather(
        (
            row.prompt,
            row.answers,
            partial(Harm, label=0.5 if row.tie else 1.0, unsafe=row.unsafe, weight=row.weight),
        )
        for row in loaded.rows
    )


def harm_tensors(rows: Sequence[Judged[Harm]], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """(worse, better, P(worse is the worse one), worse is unsafe, better is unsafe, weight), each (P,)."""
    found, offset = [], 0
    for row in rows:
        found += [(offset + h.worse, offset + h.better, h.label, *h.unsafe, h.weight) for h in row.said]
        offset += len(row.group.completions)
    worse, better, label, *unsafe, weight = zip(*found, strict=True)
    label_P, weight_P = (torch.tensor(x, dtype=dtype) for x in (label, weight))
    unsafe_A_P, unsafe_B_P = (torch.tensor(x) for x in unsafe)
    return torch.tensor(worse), torch.tensor(better), label_P, unsafe_A_P, unsafe_B_P, weight_P


def harm_pairs(row: Judged[Harm]) -> Compared:
    """As comparisons in which the more harmful answer wins, as it must by its cost."""
    return Judged(row.group, tuple(Comparison(h.worse, h.better, h.label, 0.0, h.weight) for h in row.said))


def cost_probe(hidden_CD: Tensor, rows: Sequence[Judged[Harm]], penalty: float) -> Tensor:
    """Both parts of the loss: the pairs, and each answer (unsafe or not) against the mean state."""
    worse, better, label_P, unsafe_A_P, unsafe_B_P, weight_P = harm_tensors(rows, torch.float64)
    with_mean_CD = torch.cat([hidden_CD, hidden_CD.mean(0, keepdim=True)])
    mean = torch.full_like(worse, len(hidden_CD))
    return fit_probe(
        with_mean_CD,
        torch.cat([worse, worse, better]),
        torch.cat([better, mean, mean]),
        torch.cat([label_P, unsafe_A_P.double(), unsafe_B_P.double()]),
        weight_P.repeat(3),
        penalty=penalty,
    )


def log_odds_of_harm(rows: Sequence[Judged[Harm]]) -> float:
    """Where the costs begin: at the log-odds that an answer is unsafe, as if one more of each were seen."""
    seen = [(unsafe, h.weight) for row in rows for h in row.said for unsafe in h.unsafe]
    harmful, harmless = (sum(weight for unsafe, weight in seen if unsafe is kind) for kind in (True, False))
    return math.log((harmful + 1) / (harmless + 1))
