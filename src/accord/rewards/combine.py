"""Several scorers as one: a weighted sum of different things, or an ensemble that judges the same thing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from accord.data.batches import GroupBatch
from accord.errors import ConfigError, DataError
from accord.records import Group
from accord.rewards.scorer import Scorer, Scores

Pooling = Literal["mean", "min", "std", "variance"]


@dataclass(frozen=True)
class Component:
    """One of the things that a sum is made of; `name` is what its metrics are called."""

    name: str
    scorer: Scorer
    weight: float = 1.0


@dataclass(frozen=True)
class WeightedSum:
    """Σ weight · score over the components that have an opinion, as in TRL; `parts` are the scores alone.

    Raises ConfigError for no component, a weight that is not finite or two components of one name, and
    DataError for a completion on which none has an opinion: 0 would be an opinion.
    """

    components: tuple[Component, ...]

    def __post_init__(self) -> None:
        names = [c.name for c in self.components]
        if not names:
            raise ConfigError("a weighted sum of rewards needs at least one component")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"two components of the reward are called {twice[0]!r}: give each its own name")
        for c in self.components:
            if not math.isfinite(c.weight):
                raise ConfigError(f"the weight of reward {c.name!r} must be a finite number, not {c.weight}")

    def __call__(self, groups: Sequence[Group], batch: GroupBatch) -> Scores:
        scores = [c.scorer(groups, batch) for c in self.components]
        like_C = scores[0].scores_C
        parts = {c.name: s.scores_C.to(like_C) for c, s in zip(self.components, scores, strict=True)}
        _some_opinion(parts, groups)
        total_C = torch.stack([c.weight * parts[c.name] for c in self.components]).nansum(dim=0)
        return Scores(total_C, _hidden(scores), parts)


@dataclass(frozen=True)
class Ensemble:
    """Members on one scale that were trained to say the same, made one score by `pooled`.

    The parts `ensemble/mean` and `ensemble/std` are there to be watched: a growing deviation is the first
    sign of a policy that leaves what the reward models know. Raises ConfigError for an empty ensemble,
    another `how` or a negative coef, DataError when a member has no opinion.
    """

    members: tuple[Scorer, ...]
    how: Pooling = "mean"
    coef: float = 0.0

    def __post_init__(self) -> None:
        if not self.members:
            raise ConfigError("an ensemble of rewards needs at least one member")
        if self.how not in get_args(Pooling):
            raise ConfigError(f"unknown ensemble {self.how!r}: use mean, min, std or variance")
        if not self.coef >= 0:
            raise ConfigError(f"the ensemble's coef must be at least 0, not {self.coef}")

    def __call__(self, groups: Sequence[Group], batch: GroupBatch) -> Scores:
        scores = [member(groups, batch) for member in self.members]
        like_C = scores[0].scores_C
        scores_MC = torch.stack([s.scores_C.to(like_C) for s in scores])
        for m, member_C in enumerate(scores_MC):
            _some_opinion({f"member {m} of the ensemble": member_C}, groups)
        deviation_C = scores_MC.std(dim=0, correction=0)
        parts = {"ensemble/mean": scores_MC.mean(dim=0), "ensemble/std": deviation_C}
        return Scores(pooled(scores_MC, self.how, self.coef), _hidden(scores), parts)


def pooled(scores_MC: Tensor, how: Pooling, coef: float = 0.0) -> Tensor:
    """One score (C,) from those of M members: where they disagree, they know least (Coste et al. 2024, arXiv
    2310.02743, section 4).

    "mean"; "min", the paper's worst case; "variance", mean - coef · variance, its uncertainty-weighted
    objective (coef 0.5 for best-of-n, 0.1 for PPO); "std", mean - coef · standard deviation, whose coef does
    not depend on the scale of the scores. Both divide by M.
    """
    if how == "min":
        return scores_MC.amin(dim=0)
    mean_C, variance_C = scores_MC.mean(dim=0), scores_MC.var(dim=0, correction=0)
    penalty_C = {"mean": torch.zeros_like(mean_C), "std": variance_C.sqrt(), "variance": variance_C}[how]
    return mean_C - coef * penalty_C


def part_metrics(parts: Mapping[str, Tensor]) -> dict[str, float]:
    """`rewards/NAME/mean` and `rewards/NAME/std` (TRL's names) over the completions with an opinion.

    The standard deviation divides by n - 1 and is 0 for one completion; without any opinion both are NaN.
    """
    metrics: dict[str, float] = {}
    for name, scores_C in parts.items():
        said_N = scores_C[~scores_C.isnan()].double()
        metrics[f"rewards/{name}/mean"] = float(said_N.mean())
        deviation = said_N.std() if len(said_N) > 1 else said_N.mean() * 0
        metrics[f"rewards/{name}/std"] = float(deviation)
    return metrics


def _some_opinion(parts: Mapping[str, Tensor], groups: Sequence[Group]) -> None:
    """Raise DataError when all parts are NaN on a completion."""
    silent_C = torch.stack(list(parts.values())).isnan().all(dim=0)
    if bool(silent_C.any()):
        row = int(silent_C.nonzero()[0])
        prompt = [group.prompt for group in groups for _ in group.completions][row]
        raise DataError(
            f"no reward has an opinion on row {row} (prompt {prompt.id}): {', '.join(parts)} gave none; "
            "add one that always answers"
        )


def _hidden(scores: Sequence[Scores]) -> Tensor | None:
    """The hidden states of the first model that made some."""
    return next((s.hidden_FD for s in scores if s.hidden_FD is not None), None)
