"""The graded likelihood against quadrature and finite differences; what the fit must and must not see."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, stats

from accord.feedback import graded
from accord.feedback.reliability import fit_reliability
from accord.feedback.votes import votes_of
from planted import simulate


def table(n_levels, n=40, seed=0):
    rng = np.random.default_rng(seed)
    return graded.Table(
        rater_N=rng.integers(0, 3, n),
        pair_N=np.sort(rng.integers(0, 12, n)),
        side_N=rng.choice([-1.0, 1.0], n),
        level_N=rng.integers(0, n_levels, n),
        weight_N=rng.choice([0.5, 1.0], n),
        covariate_I=rng.normal(size=12),
        n_raters=3,
        n_levels=n_levels,
    )


def point(t, seed=1):
    mean, _ = graded.prior(t)
    return mean + 0.4 * np.random.default_rng(seed).normal(size=t.n_parameters)


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


@pytest.mark.parametrize("n_levels", [2, 3, 6, 7])
def test_gradient_is_that_of_finite_differences(n_levels):
    t = table(n_levels)
    theta = point(t)
    _, gradient = graded.minus_log_posterior(theta, t)
    steps = np.eye(len(theta)) * 1e-5
    value = lambda x: graded.minus_log_posterior(x, t)[0]  # noqa: E731
    numeric = [(value(theta + e) - value(theta - e)) / 2e-5 for e in steps]
    assert gradient == pytest.approx(np.array(numeric), abs=1e-6)


@pytest.mark.parametrize("n_levels", [2, 7])
def test_likelihood_of_a_pair_is_the_integral_of_the_formula(n_levels):
    t = table(n_levels)
    theta = point(t)
    p = graded.unpack(theta, t)
    beyond = np.cumsum(p.gaps_J)
    cuts = [-math.inf, *-beyond[::-1], *([] if n_levels % 2 else [0.0]), *beyond, math.inf]
    votes = np.flatnonzero(t.pair_N == 3)
    assert len(votes) > 1
    x = t.covariate_I[3]

    def density(delta):
        product = stats.norm.pdf(delta, p.covariate * x)
        for n in votes:
            r = t.rater_N[n]
            eta = t.side_N[n] * (p.discrimination_R[r] * delta + p.covariate_R[r] * x) + p.lean_R[r]
            high, low = (p.stretch_R[r] * cuts[t.level_N[n] + i] - eta for i in (1, 0))
            answer = (1 - p.lapse_R[r]) * (sigmoid(high) - sigmoid(low)) + p.lapse_R[r] / n_levels
            product *= answer ** t.weight_N[n]
        return product

    expected, _ = integrate.quad(density, -8, 8, epsabs=1e-12, limit=200)
    found = graded.pieces(theta, t)
    assert found.loglik_I[3] == pytest.approx(math.log(expected), abs=1e-5)
    mean, _ = integrate.quad(lambda d: d * density(d), -8, 8, epsabs=1e-12, limit=200)
    z_Q, _ = graded.grid(t)
    assert found.posterior_IQ[3] @ (p.covariate * x + z_Q) == pytest.approx(mean / expected, abs=1e-5)


def test_levels_have_probability_one_together_and_none_far_from_the_answer_underflows():
    bounds = graded.cuts(np.array([0.3, 1.0, 2.0]), 7)
    eta = np.linspace(-30, 30, 61)[:, None]
    probs = graded.level_probabilities(eta, bounds[:-1], bounds[1:])
    assert probs.sum(1) == pytest.approx(1)
    assert (probs > 0).all()


@pytest.fixture(scope="module")
def planted():
    return simulate(3, n_pairs=250)


def labels(fitted):
    return {
        pair.pair: (pair.preference, pair.p_better, pair.soft_label, pair.margin) for pair in fitted.pairs
    }


def test_slots_and_sides_are_only_names(planted):
    """Slots swapped: the same pairs. Screens mirrored: the same labels and skill, the opposite lean."""
    plain = fit_reliability(votes_of(planted.judgements), lengths=planted.lengths)
    swapped = [
        replace(
            j,
            completion_ids=j.completion_ids[::-1],
            strength=-j.strength,
            shown=tuple(1 - s for s in j.shown),
        )
        for j in planted.judgements
    ]
    assert labels(fit_reliability(votes_of(swapped), lengths=planted.lengths)) == labels(plain)
    mirrored = [replace(j, shown=j.shown[::-1]) for j in planted.judgements]
    mirror = fit_reliability(votes_of(mirrored), lengths=planted.lengths)
    for one, other in zip(plain.raters, mirror.raters, strict=True):
        assert one.side_bias.value == pytest.approx(-other.side_bias.value, abs=0.02)
        assert one.skill.value == pytest.approx(other.skill.value, abs=0.01)
    assert next(r.side_bias.low for r in plain.raters if r.rater == "left") > 1


def test_labels_are_what_they_say(planted):
    fitted = fit_reliability(votes_of(planted.judgements), lengths=planted.lengths)
    assert fitted.converged and not fitted.undefined_because
    assert list(fitted.cut_points) == pytest.approx([-c for c in fitted.cut_points[::-1]])
    right = [(pair.preference > 0) == (planted.quality[pair.pair] > 0) for pair in fitted.pairs]
    assert np.mean(right) > 0.75
    for pair in fitted.pairs:
        assert 0 <= pair.p_better <= 1 and -3 <= pair.margin <= 3
        assert pair.weight == pytest.approx(abs(2 * pair.p_better - 1))
        if abs(pair.preference) > pair.preference_sd:
            assert (
                (pair.preference > 0) == (pair.p_better > 0.5) == (pair.soft_label > 0.5) == (pair.margin > 0)
            )


def test_repeats_and_weights_count_as_they_should(planted):
    """A vote given twice is one vote; a vote of weight 0 is none."""
    votes = votes_of(planted.judgements)
    again = [replace(v, judgement_id=v.judgement_id + "'", item_id=v.item_id + "'") for v in votes]
    twice, once = (labels(fit_reliability(some)) for some in (votes + again, votes))
    assert twice.keys() == once.keys()
    assert np.array(list(twice.values())) == pytest.approx(np.array([once[pair] for pair in twice]), abs=2e-3)
    without = [v for v in votes if v.rater != "left"]
    silent = fit_reliability(votes, weights={v.judgement_id: 0.0 for v in votes if v.rater == "left"})
    mine = {r.rater: r.skill.value for r in silent.raters if r.rater != "left"}
    theirs = {r.rater: r.skill.value for r in fit_reliability(without).raters}
    assert mine == pytest.approx(theirs, abs=2e-3)


def test_what_cannot_be_told_says_why(planted):
    votes = votes_of(planted.judgements)
    alone = fit_reliability([v for v in votes if v.rater == "good1"])
    assert "no pair was judged by two raters" in alone.undefined_because
    assert alone.raters == () and alone.pairs == () and alone.common_length.value is None
    lonely = replace(votes[0], judgement_id="x", rater="lonely", first="a", second="b", item_id="x")
    fitted = fit_reliability([*votes, lonely])
    (found,) = (r for r in fitted.raters if r.rater == "lonely")
    assert found.skill.value is None and "shares no pair" in found.skill.meaning
    assert "lengths were not given" in fitted.raters[0].length_bias.meaning


def test_two_grades_and_no_ties_are_a_scale_too(planted):
    votes = [replace(v, strength=2 if v.strength > 0 else -2) for v in votes_of(planted.judgements)]
    fitted = fit_reliability(votes)
    assert fitted.cut_points == (0.0,)
    skill = {r.rater: r.skill.value for r in fitted.raters}
    assert skill["inverted"] < 0.3 < 0.6 < skill["good0"]
