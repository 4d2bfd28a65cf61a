"""How far each rater can be relied on, and what the answers to each pair add up to once that is known.

A majority vote counts a careless click like a careful answer. Here the raters' discrimination, lean, lapses
and use of the scale are fitted together with the pairs' latent differences (the model is in `graded.py`), by
maximum a posteriori with the differences integrated out. Every pair gets a soft label, a margin and a weight
for the reward model, every rater her numbers with intervals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import optimize, stats
from scipy.special import expit

from accord.feedback import graded
from accord.feedback.estimates import Estimate, Floats, unknown
from accord.feedback.graded import Table
from accord.feedback.votes import Vote


@dataclass(frozen=True)
class RaterReliability:
    """One rater, as fitted. Every estimate is shrunk towards the typical rater, the more the fewer votes."""

    rater: str
    n: int
    n_shared: int  # votes on pairs that somebody else judged as well; only these tell anything of her
    skill: Estimate
    discrimination: Estimate
    side_bias: Estimate
    length_bias: Estimate
    lapse: Estimate
    stretch: Estimate


@dataclass(frozen=True)
class PairReliability:
    """What the answers to a pair add up to; everything is about its first completion (by id)."""

    pair: str
    first: str
    second: str
    n: int
    preference: float  # posterior mean of δ, in units of its spread over pairs
    preference_sd: float
    p_better: float  # P(δ > 0)
    soft_label: float  # the share of typical raters, free of bias, who would choose the first
    margin: float  # the strength they would give on average, in steps of the scale (-3..3)
    weight: float  # |2 p_better - 1|: how much a hard label of this pair is worth


@dataclass(frozen=True)
class Reliability:
    """See `fit_reliability`. Without a fit, `undefined_because` says why, else it is empty."""

    raters: tuple[RaterReliability, ...]
    pairs: tuple[PairReliability, ...]
    typical_discrimination: float | None
    common_length: Estimate
    cut_points: tuple[float, ...]
    converged: bool
    undefined_because: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fit_reliability(
    votes: Sequence[Vote],
    *,
    lengths: Mapping[str, float] | None = None,
    weights: Mapping[str, float] | None = None,
    confidence: float = 0.95,
) -> Reliability:
    """Fit the model of `graded.py` to graded votes.

    `lengths` (by completion id, in any unit) lets raters differ in their taste for long answers; pairs
    with an unknown or zero length count as equally long. `weights` (by judgement id, default 1) scales single
    votes, for instance a copied one. A rater's repeated votes on one pair share the weight of one.

    Intervals are ± z standard errors from the information in the pairs' scores plus the prior's. The side of
    the truth is the side of the majority: were most raters inverted, all signs would be.
    """
    shared = Counter({pair: len(who) for pair, who in _raters_of(votes).items()})
    if not any(count > 1 for count in shared.values()):
        why = "no pair was judged by two raters, so nothing tells a good rater from a bad one"
        return Reliability((), (), None, unknown(why), (), False, why)
    names = sorted({vote.rater for vote in votes})
    pairs = {vote.pair: vote for vote in reversed(votes)}
    pair_ids = sorted(pairs)
    table, scale = _table(votes, names, pair_ids, _covariate([pairs[p] for p in pair_ids], lengths), weights)
    mean, _ = graded.prior(table)
    best = optimize.minimize(
        graded.minus_log_posterior,
        mean,
        args=(table,),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-10, "gtol": 1e-5, "maxcor": 20},
    )
    found, fitted = graded.pieces(best.x, table), graded.unpack(best.x, table)
    covariance = _covariance(found, table)
    typical = _typical(fitted.discrimination_R, np.bincount(table.rater_N).astype(float))
    z = float(stats.norm.ppf((1 + confidence) / 2))
    n_of = Counter(vote.rater for vote in votes)
    n_shared = Counter(vote.rater for vote in votes if shared[vote.pair] > 1)
    raters = tuple(
        _rater(r, name, n_of[name], n_shared[name], best.x, covariance, table, z, lengths is not None)
        for r, name in enumerate(names)
    )
    common = unknown("the answers' lengths were not given")
    if lengths is not None:
        meaning = "true difference per spread of log length ratio; positive: raters prefer the longer answer"
        value, reach = fitted.covariate, z * float(np.sqrt(covariance[0, 0]))
        common = Estimate(value, value - reach, value + reach, len(pair_ids), meaning)
    return Reliability(
        raters=raters,
        pairs=_pairs(found, fitted, typical, table, scale, [pairs[p] for p in pair_ids]),
        typical_discrimination=typical,
        common_length=common,
        cut_points=tuple(float(c) for c in graded.cuts(fitted.gaps_J, table.n_levels)[1:-1]),
        converged=bool(best.success),
    )


def _raters_of(votes: Sequence[Vote]) -> dict[str, set[str]]:
    raters: dict[str, set[str]] = {}
    for vote in votes:
        raters.setdefault(vote.pair, set()).add(vote.rater)
    return raters


def _covariate(pairs: Sequence[Vote], lengths: Mapping[str, float] | None) -> Floats:
    """Log of the ratio of lengths, in units of its root mean square; zeros when lengths are not known."""
    if lengths is None:
        return np.zeros(len(pairs))
    both = np.array([[lengths.get(v.first, 0.0), lengths.get(v.second, 0.0)] for v in pairs], dtype=float)
    known = (both > 0).all(1)
    ratio_I = np.where(known, np.diff(-np.log(np.where(both > 0, both, 1.0)), axis=1)[:, 0], 0.0)
    spread = float(np.sqrt(np.mean(ratio_I**2)))
    return ratio_I / spread if spread > 0 else ratio_I


def _table(
    votes: Sequence[Vote],
    names: Sequence[str],
    pair_ids: Sequence[str],
    covariate_I: Floats,
    weights: Mapping[str, float] | None,
) -> tuple[Table, Floats]:
    """The votes as arrays, and the strength that each level stands for (grades that nobody uses drop out)."""
    grades = sorted({abs(vote.strength) for vote in votes} - {0})
    middle = [0] if any(vote.strength == 0 for vote in votes) or not grades else []
    scale = [-g for g in reversed(grades)] + middle + grades
    level = {strength: k for k, strength in enumerate(scale)}
    rater, pair = ({name: i for i, name in enumerate(some)} for some in (names, pair_ids))
    times = Counter((vote.rater, vote.pair) for vote in votes)
    given = weights or {}
    table = Table(
        rater_N=np.array([rater[v.rater] for v in votes]),
        pair_N=np.array([pair[v.pair] for v in votes]),
        side_N=np.array([1.0 if v.first_is_left else -1.0 for v in votes]),
        level_N=np.array([level[v.displayed] for v in votes]),
        weight_N=np.array([given.get(v.judgement_id, 1.0) / times[v.rater, v.pair] for v in votes]),
        covariate_I=covariate_I,
        n_raters=len(names),
        n_levels=len(scale),
    )
    return table, np.array(scale, dtype=float)


def _covariance(found: graded.Pieces, table: Table) -> Floats:
    """Of the parameters: the inverse of the scores' outer products (BHHH 1974) plus the prior precision."""
    scores = graded.score_matrix(found, table)
    information = np.asarray((scores.T @ scores).todense())
    return np.linalg.inv(information + np.diag(graded.prior(table)[1]))


def _typical(discrimination_R: Floats, n_R: Floats) -> float:
    """That of the rater behind the median vote; never negative."""
    order = np.argsort(discrimination_R)
    half = int(np.searchsorted(np.cumsum(n_R[order]), n_R.sum() / 2))
    return max(0.0, float(discrimination_R[order[half]]))


# ---------------------------------------------------------------------------------- what comes of a rater


def _rater(
    r: int,
    name: str,
    n: int,
    n_shared: int,
    theta: Floats,
    covariance: Floats,
    table: Table,
    z: float,
    with_length: bool,
) -> RaterReliability:
    if n_shared == 0:
        alone = unknown("shares no pair with another rater, so nothing tells how good she is", n)
        return RaterReliability(name, n, 0, *[alone] * 6)
    index = table.n_common + table.n_raters * np.arange(graded.PER_RATER) + r
    common = np.arange(table.n_common)
    own = np.concatenate([common, index])
    block = covariance[np.ix_(own, own)]

    def estimate(function: Any, meaning: str) -> Estimate:
        """A function of the common and her own parameters, by the delta method."""
        at = theta[own]
        steps = np.eye(len(own)) * 1e-4
        slope = np.array([(function(at + e) - function(at - e)) / 2e-4 for e in steps])
        value, se = float(function(at)), float(np.sqrt(max(0.0, slope @ block @ slope)))
        return Estimate(value, value - z * se, value + z * se, n_shared, meaning)

    c = table.n_common
    lapse = estimate(lambda v: v[c + 3], "")  # on the logit scale, so that its bounds stay shares
    stretch = estimate(lambda v: v[c + 2], "")
    skill = estimate(lambda v: _skill_logit(v, table), "")
    length = unknown("the answers' lengths were not given", n_shared)
    if with_length:
        length = estimate(
            lambda v: v[c + 4], "logits per spread of log length ratio beyond the others' taste; 0: no more"
        )
    return RaterReliability(
        rater=name,
        n=n,
        n_shared=n_shared,
        skill=_mapped(skill, expit, "share of decided answers that name the better one; 0.5 is a coin"),
        discrimination=estimate(
            lambda v: v[c],
            "logits per spread of true difference; 0: no relation to it, negative: the wrong way round",
        ),
        side_bias=estimate(lambda v: v[c + 1], "logits towards the left answer; 0: no lean"),
        length_bias=length,
        lapse=_mapped(lapse, expit, "share of answers given without looking"),
        stretch=_mapped(stretch, np.exp, "how far apart she sets the grades; above 1: seldom uses extremes"),
    )


def _mapped(estimate: Estimate, function: Any, meaning: str) -> Estimate:
    value, low, high = (float(function(x)) for x in (estimate.value, estimate.low, estimate.high))
    return Estimate(value, low, high, estimate.n, meaning)


def _skill_logit(own: Floats, table: Table) -> float:
    """Logit of P(names the better | decides) for fresh pairs δ ~ N(0, 1), sides at random."""
    c = table.n_common
    a, lean, log_stretch, logit_lapse, weight = own[c:]
    delta_Q, log_w_Q = graded.grid(table)
    x_S = np.quantile(table.covariate_I, np.linspace(0.1, 0.9, 5))
    eta_SQ = (a * delta_Q + (weight * x_S)[:, None]).reshape(-1)
    w_SQ = np.tile(np.exp(log_w_Q), len(x_S)) / len(x_S)
    sign_SQ = np.tile(np.sign(delta_Q), len(x_S))
    bounds = graded.cuts(np.exp(own[1:c]), table.n_levels) * np.exp(log_stretch)
    k, lapse = table.n_levels // 2, float(expit(logit_lapse))
    right = wrong = 0.0
    for side in (1.0, -1.0):
        felt = side * eta_SQ + lean
        left = graded.level_probabilities(felt, bounds[-1 - k], bounds[-1])
        other = graded.level_probabilities(felt, bounds[0], bounds[k])
        better_left = side * sign_SQ > 0
        better_right = side * sign_SQ < 0
        right += float(w_SQ @ (better_left * left + better_right * other))
        wrong += float(w_SQ @ (better_left * other + better_right * left))
    guess = lapse * k / table.n_levels * 2
    return float(np.log((1 - lapse) * right + guess) - np.log((1 - lapse) * wrong + guess))


# ----------------------------------------------------------------------------------- what comes of a pair


def _pairs(
    found: graded.Pieces,
    fitted: graded.Parameters,
    typical: float,
    table: Table,
    scale: Floats,
    pairs: Sequence[Vote],
) -> tuple[PairReliability, ...]:
    z_Q, _ = graded.grid(table)
    delta_IQ = fitted.covariate * table.covariate_I[:, None] + z_Q
    post_IQ = found.posterior_IQ
    mean_I = (post_IQ * delta_IQ).sum(1)
    sd_I = np.sqrt((post_IQ * (delta_IQ - mean_I[:, None]) ** 2).sum(1))
    # Half of the weight of a grid point at 0, should there be one.
    better_I = (post_IQ * ((delta_IQ > 0) + 0.5 * (delta_IQ == 0))).sum(1)
    bounds = graded.cuts(fitted.gaps_J, table.n_levels)
    level_IQK = graded.level_probabilities((typical * delta_IQ)[:, :, None], bounds[:-1], bounds[1:])
    level_IK = np.einsum("iq,iqk->ik", post_IQ, level_IQK)
    k = table.n_levels // 2
    for_first, for_second = level_IK[:, -k:].sum(1), level_IK[:, :k].sum(1)
    n_I = np.bincount(table.pair_N, minlength=len(pairs))
    return tuple(
        PairReliability(
            pair=vote.pair,
            first=vote.first,
            second=vote.second,
            n=int(n_I[i]),
            preference=float(mean_I[i]),
            preference_sd=float(sd_I[i]),
            p_better=float(better_I[i]),
            soft_label=float(for_first[i] / (for_first[i] + for_second[i])),
            margin=float(level_IK[i] @ scale),
            weight=float(abs(2 * better_I[i] - 1)),
        )
        for i, vote in enumerate(pairs)
    )
