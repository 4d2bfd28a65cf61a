"""The likelihood of graded comparisons whose raters differ; `reliability.py` fits it.

Rater r sees pair i with its first answer on side s (1: left, -1: right) and answers with one of K levels,
from "right much better" to "left much better". With probability ε_r without looking, uniformly; else

    P(level <= k) = σ(t_r τ_k - η),    η = s a_r δ_i + b_r + s c_r x_i,    δ_i ~ N(γ x_i, 1)

δ_i is how much better the first answer is, in units of its spread over pairs; a_r the rater's
discrimination (0: a coin, negative: the wrong way round), b_r her lean to the left, c_r her own weight for
the covariate x_i (a difference of length, say) beyond the common γ, t_r how far apart she sets her grades.
The cut points τ are symmetric about 0. δ is integrated out over a grid, so that raters are judged by what is
known of the pairs and no more. A cumulative logit (McCullagh 1980) on the latent difference of two answers
(Agresti 1992), with the raters' reliability of Crowd-BT (Chen et al. 2013).

Axes: N votes, I pairs, R raters, Q grid points, J free cut points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit, logsumexp

from accord.feedback.estimates import Floats

Ints = NDArray[np.intp]

FAR = 1e4  # stands for infinity beyond the outer cut points, where its product with 0 must be 0

# Prior mean and spread: first the common parameters, then those of each rater.
COMMON_PRIOR = {"covariate": (0.0, 1.0), "log_gap": (0.0, 1.5)}
RATER_PRIOR = {
    "discrimination": (1.5, 1.5),  # a: 1.5 names the better of two in 3 of 4 cases
    "lean": (0.0, 1.5),  # b
    "log_stretch": (0.0, 0.6),  # log t
    "logit_lapse": (-4.0, 1.2),
    "covariate": (0.0, 0.7),  # c
}
PER_RATER = len(RATER_PRIOR)


@dataclass(frozen=True)
class Table:
    """Votes as arrays. `level_N` counts from 0, as displayed; `weight_N` multiplies log-likelihoods."""

    rater_N: Ints
    pair_N: Ints
    side_N: Floats
    level_N: Ints
    weight_N: Floats
    covariate_I: Floats
    n_raters: int
    n_levels: int

    @property
    def tied(self) -> bool:
        """Whether there is a middle level."""
        return self.n_levels % 2 == 1

    @property
    def n_gaps(self) -> int:
        """Free distances between cut points: symmetric, and one cut is at 0 when there are no ties."""
        return (self.n_levels - 1) // 2

    @property
    def n_common(self) -> int:
        return 1 + self.n_gaps

    @property
    def n_parameters(self) -> int:
        return self.n_common + PER_RATER * self.n_raters


@dataclass(frozen=True)
class Parameters:
    """The vector of free numbers, with names."""

    covariate: float  # γ
    gaps_J: Floats
    discrimination_R: Floats
    lean_R: Floats
    stretch_R: Floats
    lapse_R: Floats
    covariate_R: Floats


def unpack(theta: Floats, table: Table) -> Parameters:
    rater_PR = theta[table.n_common :].reshape(PER_RATER, table.n_raters)
    return Parameters(
        covariate=float(theta[0]),
        gaps_J=np.exp(theta[1 : table.n_common]),
        discrimination_R=rater_PR[0],
        lean_R=rater_PR[1],
        stretch_R=np.exp(rater_PR[2]),
        lapse_R=expit(rater_PR[3]),
        covariate_R=rater_PR[4],
    )


def prior(table: Table) -> tuple[Floats, Floats]:
    """Mean and precision of every parameter; also where the search begins."""
    common = [COMMON_PRIOR["covariate"], *[COMMON_PRIOR["log_gap"]] * table.n_gaps]
    raters = [setting for setting in RATER_PRIOR.values() for _ in range(table.n_raters)]
    mean, spread = np.array(common + raters).T
    return mean, spread**-2


def cuts(gaps_J: Floats, n_levels: int) -> Floats:
    """The K + 1 bounds of the levels, the outer ones FAR away."""
    beyond = np.cumsum(gaps_J)
    middle = [] if n_levels % 2 else [0.0]
    return np.concatenate([[-FAR], -beyond[::-1], middle, beyond, [FAR]])


def level_probabilities(eta: Floats, lower: Floats, upper: Floats) -> Floats:
    """σ(upper - η) - σ(lower - η), without loss of digits in the upper tail."""
    low, high = lower - eta, upper - eta
    flip = low + high > 0
    return np.where(flip, expit(-low) - expit(-high), expit(high) - expit(low))


def grid(table: Table) -> tuple[Floats, Floats]:
    """Points and log weights for N(0, 1): evenly spaced, closer where pairs have many votes."""
    most = np.bincount(table.pair_N, weights=table.weight_N).max()
    n = min(241, 2 * int(15 * np.sqrt(max(1.0, most / 3))) + 1)
    z_Q = np.linspace(-4.8, 4.8, n)
    log_weight_Q = -(z_Q**2) / 2
    return z_Q, log_weight_Q - logsumexp(log_weight_Q)


@dataclass(frozen=True)
class Pieces:
    """Log-likelihood of each pair, its posterior on the grid, and every vote's score in its parameters."""

    loglik_I: Floats
    posterior_IQ: Floats
    common_NC: Floats
    rater_NP: Floats


def pieces(theta: Floats, table: Table) -> Pieces:
    p, (z_Q, log_weight_Q) = unpack(theta, table), grid(table)
    r, s_N1, x_N = table.rater_N, table.side_N[:, None], table.covariate_I[table.pair_N]
    a_N, t_N1, lapse_N1 = p.discrimination_R[r], p.stretch_R[r][:, None], p.lapse_R[r][:, None]
    delta_NQ = (p.covariate * x_N)[:, None] + z_Q
    eta_NQ = s_N1 * (a_N[:, None] * delta_NQ + (p.covariate_R[r] * x_N)[:, None]) + p.lean_R[r][:, None]
    bounds = cuts(p.gaps_J, table.n_levels)
    lower_N1, upper_N1 = bounds[table.level_N][:, None], bounds[table.level_N + 1][:, None]
    up_NQ, down_NQ = expit(t_N1 * upper_N1 - eta_NQ), expit(eta_NQ - t_N1 * lower_N1)
    # σ(u) - σ(l) = σ(u) σ(-l) (1 - exp(l - u)), without loss of digits, and the slopes cost nothing more.
    prob_NQ = up_NQ * down_NQ * -np.expm1(t_N1 * (lower_N1 - upper_N1))
    lapsed_NQ = (1 - lapse_N1) * prob_NQ + lapse_N1 / table.n_levels

    of_pair_IN = sparse.csr_array((table.weight_N, (table.pair_N, np.arange(len(r)))))
    joint_IQ = of_pair_IN @ np.log(lapsed_NQ) + log_weight_Q
    loglik_I = logsumexp(joint_IQ, axis=1)
    posterior_IQ = np.exp(joint_IQ - loglik_I[:, None])

    share_NQ = posterior_IQ[table.pair_N] * table.weight_N[:, None] / lapsed_NQ
    slope_high_NQ = up_NQ * (1 - up_NQ) * (1 - lapse_N1) * share_NQ
    slope_low_NQ = down_NQ * (1 - down_NQ) * (1 - lapse_N1) * share_NQ
    by_eta_NQ = slope_low_NQ - slope_high_NQ
    by_eta_N, by_a_N = by_eta_NQ.sum(1), table.side_N * (by_eta_NQ * delta_NQ).sum(1)
    high_N, low_N = slope_high_NQ.sum(1) * t_N1[:, 0], slope_low_NQ.sum(1) * t_N1[:, 0]
    odd_NQ = share_NQ * (1 / table.n_levels - prob_NQ)
    by_lapse_N = odd_NQ.sum(1) * (lapse_N1 * (1 - lapse_N1))[:, 0]
    by_stretch_N = high_N * upper_N1[:, 0] - low_N * lower_N1[:, 0]
    rater_NP = np.stack([by_a_N, by_eta_N, by_stretch_N, by_lapse_N, table.side_N * x_N * by_eta_N], axis=1)
    by_gap_NJ = _by_gaps(high_N, low_N, table) * p.gaps_J
    by_covariate_N = a_N * table.side_N * x_N * by_eta_N
    common_NC = np.column_stack([by_covariate_N, by_gap_NJ])
    return Pieces(loglik_I, posterior_IQ, common_NC, rater_NP)


def _by_gaps(high_N: Floats, low_N: Floats, table: Table) -> Floats:
    """Scores in the distances between cut points, of which cut point j is ± the sum of the first j."""
    n_gaps, middle = table.n_gaps, 0 if table.tied else 1
    # d bound / d gap: rows are the K + 1 bounds.
    chain_BJ = np.zeros((table.n_levels + 1, n_gaps))
    for j in range(n_gaps):
        chain_BJ[n_gaps + middle + 1 + j, : j + 1] = 1
        chain_BJ[n_gaps - j, : j + 1] = -1
    return high_N[:, None] * chain_BJ[table.level_N + 1] - low_N[:, None] * chain_BJ[table.level_N]


def score_matrix(found: Pieces, table: Table) -> sparse.csr_array:
    """The score of every pair in every parameter, (I, parameters)."""
    n, common = len(table.rater_N), table.n_common
    columns_NC = np.broadcast_to(np.arange(common), (n, common))
    offsets_P = common + table.n_raters * np.arange(PER_RATER)
    columns_NP = offsets_P + table.rater_N[:, None]
    columns = np.hstack([columns_NC, columns_NP])
    rows = np.broadcast_to(table.pair_N[:, None], columns.shape)
    values = np.hstack([found.common_NC, found.rater_NP])
    shape = (len(table.covariate_I), table.n_parameters)
    return sparse.csr_array((values.ravel(), (rows.ravel(), columns.ravel())), shape=shape)


def minus_log_posterior(theta: Floats, table: Table) -> tuple[float, Floats]:
    """What the fit minimises (up to a constant), and its gradient."""
    found, (mean, precision) = pieces(theta, table), prior(table)
    gap = theta - mean
    gradient = np.asarray(score_matrix(found, table).sum(axis=0)).reshape(-1)
    return float((precision * gap**2).sum() / 2 - found.loglik_I.sum()), precision * gap - gradient
