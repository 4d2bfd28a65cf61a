"""What a reward model can be fitted to: comparisons, graded ones, rankings, scores, steps, harm.

Each kind of feedback is one row of the table at the end: how it is read, its likelihood, where its head
starts, and which pairs its report card is made from. The arithmetic is in `accord.objectives`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, pairwise
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from accord.config import RewardConfig
from accord.data.graded import load_rankings, load_scores, load_steps
from accord.data.render import Encoded, Renderer
from accord.errors import ConfigError, DataError
from accord.objectives.bradley_terry import bradley_terry_loss
from accord.objectives.ordinal import ordered_thresholds, ordinal_loss
from accord.objectives.plackett_luce import plackett_luce_loss
from accord.objectives.process import process_loss
from accord.objectives.rao_kupper import rao_kupper_loss
from accord.objectives.regression import regression_loss
from accord.objectives.safe import cost_loss
from accord.records import Terms
from accord.rewards.probe import fit_probe, fit_ridge
from accord.stages.common import announce
from accord.stages.compared import (
    Compared,
    Comparison,
    pair_tensors,
    read_compared,
    released_orders,
    strength,
)
from accord.stages.harms import Harm, cost_probe, harm_pairs, harm_tensors, log_odds_of_harm, read_harms
from accord.stages.pairs import Judged, gather, in_ledger

MOST_GRADES = 9


@dataclass(frozen=True)
class Ranking:
    """Places of some answers in one ranking, 1 the best."""

    answers: tuple[int, ...]
    ranks: tuple[float, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Rating:
    """One answer's score."""

    answer: int
    score: float
    weight: float = 1.0


@dataclass(frozen=True)
class Solution:
    """P(right) of each step of an answer, which ends at token `ends` of it (known once it is tokenised)."""

    answer: int
    steps: tuple[str, ...]
    labels: tuple[float, ...]
    each: float = 1.0
    ends: tuple[int, ...] = ()

    @property
    def weight(self) -> float:
        return self.each * len(self.labels)


@dataclass(frozen=True)
class Seen:
    """A micro-batch as the reward model reads it."""

    scores_C: Tensor
    logits_CT: Tensor | None  # a score at every token, for steps
    raw_thresholds_M: Tensor | None  # of graded comparisons


@dataclass(frozen=True)
class RewardLoss:
    """A row of the table below. `compares`: only differences of scores matter, so their scale is free."""

    read: Callable[[RewardConfig, Console], list[Judged[Any]]]
    terms: Callable[[RewardConfig, Sequence[Judged[Any]], Seen], Terms]
    probe: Callable[[Tensor, Sequence[Judged[Any]], float], Tensor]
    pairs: Callable[[Judged[Any]], Compared]
    compares: bool


# ------------------------------------------------------------------------------------------------- reading


def comparisons(config: RewardConfig, console: Console) -> list[Compared]:
    return read_compared(config.data, config.strict, console)


def rankings(config: RewardConfig, console: Console) -> list[Judged[Ranking]]:
    if found := in_ledger(config.data):
        released = released_orders(*found)
        return gather((p, texts, partial(_ranking, ranks=ranks, weight=1.0)) for p, texts, ranks in released)
    loaded = load_rankings(config.data, strict=config.strict)
    announce(loaded, "rankings", console)
    return gather(
        (r.prompt, r.completions, partial(_ranking, ranks=r.grades, weight=r.weight)) for r in loaded.rows
    )


def _ranking(*answers: int, ranks: tuple[float, ...], weight: float) -> Ranking:
    return Ranking(answers, ranks, weight)


def scores(config: RewardConfig, console: Console) -> list[Judged[Rating]]:
    loaded = load_scores(config.data, strict=config.strict)
    announce(loaded, "scores", console)
    return gather(
        (r.prompt, (text,), partial(Rating, score=score, weight=r.weight))
        for r in loaded.rows
        for text, score in zip(r.completions, r.grades, strict=True)
    )


def solutions(config: RewardConfig, console: Console) -> list[Judged[Solution]]:
    loaded = load_steps(config.data, strict=config.strict)
    announce(loaded, "stepwise", console)
    return gather(
        (
            r.prompt,
            (config.step_separator.join(r.completions),),
            partial(Solution, steps=r.completions, labels=r.grades, each=r.weight),
        )
        for r in loaded.rows
    )


def harms(config: RewardConfig, console: Console) -> list[Judged[Harm]]:
    return read_harms(config.data, config.strict, console)


def locate_steps(
    row: Judged[Any], encoded: Encoded, renderer: Renderer, separator: str
) -> tuple[Judged[Any], Encoded]:
    """The row with the token at which each step ends: the one that completes the separator after it.

    The last step ends with the answer, so that the score of the whole answer is its last step's. Raises
    DataError where one token ends two steps.
    """

    def located(s: Solution) -> Solution:
        ids = encoded.completion_ids[s.answer]
        heads = [separator.join(s.steps[: n + 1]) + separator for n in range(len(s.steps) - 1)]
        ends = (*(_end_of(head, ids, renderer) for head in heads), len(ids) - 1)
        if any(a >= b for a, b in pairwise(ends)):
            raise DataError(
                f"{row.group.prompt.source}: two steps end in one token; put more than {separator!r} between "
                "them (step_separator), or join them"
            )
        return replace(s, ends=ends)

    return replace(row, said=tuple(located(s) for s in row.said)), encoded


def _end_of(head: str, ids: Sequence[int], renderer: Renderer) -> int:
    """The first token with which the text so far begins with `head`."""

    def reaches(n: int) -> bool:
        return renderer.text(ids[: n + 1]).startswith(head)

    return bisect_left(range(len(ids)), True, key=reaches)


# ------------------------------------------------------------------------------------------------- tensors


def offsets(rows: Sequence[Judged[Any]]) -> Iterable[tuple[int, Any]]:
    """(place of the row's first answer in the batch, thing said) of everything that was said."""
    offset = 0
    for row in rows:
        for said in row.said:
            yield offset, said
        offset += len(row.group.completions)


def rank_tensors(rows: Sequence[Judged[Ranking]], like: Tensor) -> tuple[Tensor, ...]:
    """(answers, ranks, which ranking, weights), one entry for each place of each ranking."""
    places = [
        (offset + answer, rank, number, r.weight)
        for number, (offset, r) in enumerate(offsets(rows))
        for answer, rank in zip(r.answers, r.ranks, strict=True)
    ]
    answer, rank, group, weight = (torch.tensor(column) for column in zip(*places, strict=True))
    return answer, rank, group, weight.to(like)


def rating_tensors(rows: Sequence[Judged[Rating]], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(answers, scores, weights), one entry for each rating."""
    said = list(offsets(rows))
    answer_N = torch.tensor([offset + s.answer for offset, s in said])
    rating_N = torch.tensor([s.score for _, s in said], dtype=like.dtype)
    return answer_N, rating_N, torch.tensor([s.weight for _, s in said], dtype=like.dtype)


def step_tensors(rows: Sequence[Judged[Solution]], like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(answers, labels, step marks, weights) of S solutions; `like` is the answers' (C, T)."""
    said = list(offsets(rows))
    answer_S = torch.tensor([offset + s.answer for offset, s in said])
    step_ST = torch.zeros(len(said), like.shape[1], dtype=torch.bool)
    label_ST = torch.zeros(step_ST.shape, dtype=torch.promote_types(like.dtype, torch.float32))
    for row, (_, s) in enumerate(said):
        step_ST[row, list(s.ends)] = True
        label_ST[row, list(s.ends)] = torch.tensor(s.labels).to(label_ST)
    return answer_S, label_ST, step_ST, torch.tensor([s.each for _, s in said]).to(label_ST)


def features(config: RewardConfig, pooled_CD: Tensor, stands_CTD: Tensor, rows: Sequence[Any]) -> Tensor:
    """What the head learns from before training: the answers' states, or those at the ends of steps."""
    if config.loss != "process":
        return pooled_CD
    answer_S, _, step_ST, _ = step_tensors(rows, stands_CTD[:, :, 0])
    return stands_CTD[answer_S][step_ST]


# -------------------------------------------------------------------------------------------------- terms


def bradley_terry_terms(c: RewardConfig, rows: Sequence[Compared], seen: Seen) -> Terms:
    a_P, b_P, label_P, margin_P, weight_P = pair_tensors(rows, seen.scores_C.dtype)
    rao_kupper = partial(rao_kupper_loss, threshold=c.tie_threshold)
    likelihood = rao_kupper if c.ties == "rao-kupper" else bradley_terry_loss
    return likelihood(
        seen.scores_C[a_P],
        seen.scores_C[b_P],
        label_P=label_P,
        margin_P=c.margin_coef * margin_P,
        weight_P=weight_P,
        label_smoothing=c.label_smoothing,
        center_coef=c.center_rewards_coefficient,
    )


def ordinal_terms(c: RewardConfig, rows: Sequence[Compared], seen: Seen) -> Terms:
    assert seen.raw_thresholds_M is not None
    a_P, b_P, _, _, weight_P = pair_tensors(rows, seen.scores_C.dtype)
    thresholds_M = ordered_thresholds(seen.raw_thresholds_M)
    most = len(thresholds_M)  # a grade that training never saw counts as the highest that it did
    strength_P = torch.tensor([min(strength(x), most) for row in rows for x in row.said])
    return ordinal_loss(
        seen.scores_C[a_P],
        seen.scores_C[b_P],
        strength_P=strength_P.to(seen.scores_C),
        thresholds_M=thresholds_M,
        weight_P=weight_P,
        center_coef=c.center_rewards_coefficient,
    )


def plackett_luce_terms(c: RewardConfig, rows: Sequence[Judged[Ranking]], seen: Seen) -> Terms:
    answer, rank, group, weight = rank_tensors(rows, seen.scores_C)
    return plackett_luce_loss(
        seen.scores_C[answer],
        rank_C=rank,
        group_C=group,
        weight_C=weight,
        center_coef=c.center_rewards_coefficient,
    )


def regression_terms(c: RewardConfig, rows: Sequence[Judged[Rating]], seen: Seen) -> Terms:
    answer_N, rating_N, weight_N = rating_tensors(rows, seen.scores_C)
    return regression_loss(seen.scores_C[answer_N], rating_CA=rating_N, weight_C=weight_N)


def process_terms(c: RewardConfig, rows: Sequence[Judged[Solution]], seen: Seen) -> Terms:
    assert seen.logits_CT is not None
    answer_S, label_ST, step_ST, weight_S = step_tensors(rows, seen.logits_CT)
    return process_loss(seen.logits_CT[answer_S], label_CT=label_ST, step_CT=step_ST, weight_C=weight_S)


def cost_terms(c: RewardConfig, rows: Sequence[Judged[Harm]], seen: Seen) -> Terms:
    worse, better, label_P, unsafe_A_P, unsafe_B_P, weight_P = harm_tensors(rows, seen.scores_C.dtype)
    return cost_loss(
        seen.scores_C[worse],
        seen.scores_C[better],
        label_P=label_P,
        unsafe_A_P=unsafe_A_P,
        unsafe_B_P=unsafe_B_P,
        weight_P=weight_P,
    )


# ----------------------------------------------------------------------------------- where the head starts


def pair_probe(hidden_CD: Tensor, rows: Sequence[Compared], penalty: float) -> Tensor:
    a_P, b_P, label_P, _, weight_P = pair_tensors(rows, torch.float64)
    return fit_probe(hidden_CD, a_P, b_P, label_P, weight_P, penalty=penalty)


def rating_probe(hidden_CD: Tensor, rows: Sequence[Judged[Rating]], penalty: float) -> Tensor:
    answer_N, rating_N, weight_N = rating_tensors(rows, hidden_CD.double())
    return fit_ridge(hidden_CD[answer_N], rating_N, weight_N, penalty=penalty)


def step_probe(hidden_ND: Tensor, rows: Sequence[Judged[Solution]], penalty: float) -> Tensor:
    """Right steps against the mean state: logistic regression, as a comparison with what is always there."""
    said = [s for row in rows for s in row.said]
    label_N = torch.tensor([label for s in said for label in s.labels], dtype=torch.float64)
    weight_N = torch.tensor([s.each for s in said for _ in s.labels], dtype=torch.float64)
    n = len(hidden_ND)
    with_mean_ND = torch.cat([hidden_ND, hidden_ND.mean(0, keepdim=True)])
    return fit_probe(with_mean_ND, torch.arange(n), torch.full((n,), n), label_N, weight_N, penalty=penalty)


def mean_score(rows: Sequence[Judged[Any]]) -> float:
    """Where the scores begin: at the mean rating, at the log-odds of harm, else at 0."""
    said = [s for row in rows for s in row.said]
    if said and isinstance(said[0], Rating):
        return sum(s.score for s in said) / len(said)
    return log_odds_of_harm(rows) if said and isinstance(said[0], Harm) else 0.0


# --------------------------------------------------------------------------------------------------- pairs


def ranked_pairs(row: Judged[Ranking]) -> Compared:
    """Each pair of a ranking as a comparison; ties are ties."""
    found = []
    for r in row.said:
        for (a, rank_a), (b, rank_b) in combinations(zip(r.answers, r.ranks, strict=True), 2):
            better, worse = (a, b) if rank_a <= rank_b else (b, a)
            found.append(Comparison(better, worse, 0.5 if rank_a == rank_b else 1.0, 0.0, r.weight))
    return Judged(row.group, tuple(found))


def scored_answers(row: Judged[Rating]) -> Compared:
    """Each pair of a prompt's scores as a comparison."""
    ranking = Ranking(tuple(r.answer for r in row.said), tuple(-r.score for r in row.said))
    compared = ranked_pairs(Judged(row.group, (ranking,)))
    return replace(compared, said=tuple(c for c in compared.said if c.a != c.b))


def no_pairs(row: Judged[Solution]) -> Compared:
    return Judged(row.group, ())


LOSSES: Mapping[str, RewardLoss] = {
    "bradley-terry": RewardLoss(comparisons, bradley_terry_terms, pair_probe, lambda row: row, True),
    "ordinal": RewardLoss(comparisons, ordinal_terms, pair_probe, lambda row: row, True),
    "plackett-luce": RewardLoss(
        rankings,
        plackett_luce_terms,
        lambda hidden, rows, penalty: pair_probe(hidden, [ranked_pairs(r) for r in rows], penalty),
        ranked_pairs,
        True,
    ),
    "regression": RewardLoss(scores, regression_terms, rating_probe, scored_answers, False),
    "process": RewardLoss(solutions, process_terms, step_probe, no_pairs, False),
    "cost": RewardLoss(harms, cost_terms, cost_probe, harm_pairs, False),
}


def check(config: RewardConfig) -> None:
    """Raise ConfigError for settings that contradict one another, before anything is loaded."""
    of_pairs = config.loss in ("bradley-terry", "ordinal")
    if config.aggregate != "none" and not of_pairs:
        raise ConfigError(f"aggregate: {config.aggregate} is for comparisons; loss: {config.loss} has none")
    if config.ties == "rao-kupper" and config.loss != "bradley-terry":
        raise ConfigError(
            f"ties: rao-kupper goes with loss: bradley-terry; loss: {config.loss} has its own ties"
        )
    if config.label_smoothing and config.loss != "bradley-terry":
        raise ConfigError(f"label_smoothing goes with loss: bradley-terry; loss: {config.loss} has none")
    if config.center_rewards_coefficient and config.loss in ("regression", "process", "cost"):
        raise ConfigError(
            "center_rewards_coefficient goes with losses that leave the level free; loss: "
            f"{config.loss} fixes it"
        )
    if config.loss == "process" and config.pooling != "last":
        raise ConfigError("loss: process reads the state at each step's end: pooling must be last")


def n_grades(rows: Iterable[Compared], source: str) -> int:
    """The highest strength of preference. Raises DataError for margins that are no grades."""
    most = max((strength(c) for row in rows for c in row.said), default=1)
    if most > MOST_GRADES:
        raise DataError(
            f"{source}: margins up to {most} are no grades of preference (1 to {MOST_GRADES}); use loss: "
            "bradley-terry, which takes any margin"
        )
    return max(1, most)
