"""Against choix (strengths from pairs) and crowd-kit's Dawid-Skene (labels from raters who differ)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from accord.feedback.labels import pair_labels
from accord.feedback.reliability import fit_reliability
from accord.feedback.votes import votes_of
from accord.objectives.bradley_terry import bradley_terry_loss
from planted import simulate

choix = pytest.importorskip("choix", reason="choix is in the dev extra")
pandas = pytest.importorskip("pandas")
aggregation = pytest.importorskip("crowdkit.aggregation", reason="crowd-kit is in the dev extra")


@pytest.mark.parametrize("seed", [0, 1])
def test_the_optimum_of_bradley_terry_is_that_of_choix(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=8)
    pairs = []
    for _ in range(400):
        i, j = rng.choice(8, 2, replace=False)
        won = rng.random() < 1 / (1 + math.exp(truth[j] - truth[i]))
        pairs.append((int(i), int(j)) if won else (int(j), int(i)))
    theirs = choix.ilsr_pairwise(8, pairs, alpha=1e-9, tol=1e-12)
    a_P, b_P = torch.tensor(pairs).T
    scores = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        label_P = torch.ones(len(pairs), dtype=torch.float64)
        loss = bradley_terry_loss(scores[a_P], scores[b_P], label_P=label_P).loss
        loss.backward()
        return loss

    optimizer.step(closure)
    ours = (scores - scores.mean()).detach().numpy()
    assert ours == pytest.approx(theirs - theirs.mean(), abs=1e-5)


def test_graded_labels_are_no_worse_than_those_of_dawid_and_skene() -> None:
    """Dawid and Skene (1979) see who won only. On average over teams with planted faults our labels are right
    at least as often, and both know who is good and who has the scale the wrong way round."""
    ours, theirs = [], []
    for seed in range(4):
        data = simulate(seed, n_pairs=400, overlap=3)
        votes = votes_of(data.judgements)
        rows = [(v.pair, v.rater, v.winner) for v in votes if v.winner]
        table = pandas.DataFrame(rows, columns=["task", "worker", "label"])
        model = aggregation.DawidSkene(n_iter=200, tol=1e-8)
        said = model.fit_predict(table)
        labels = pair_labels(data.judgements, "reliability", lengths=data.lengths).pairs
        truth = {pair: np.sign(difference) for pair, difference in data.quality.items()}
        ours.append(np.mean([(p.p_first > 0.5) == (truth[f"{p.first}|{p.second}"] > 0) for p in labels]))
        theirs.append(np.mean([said.get(pair) == sign for pair, sign in truth.items()]))

        errors = model.errors_  # P(said | truth), by rater and what she said
        skill = {r: (errors.loc[(r, 1), 1] + errors.loc[(r, -1), -1]) / 2 for r in table.worker.unique()}
        fitted = {r.rater: r.skill.value for r in fit_reliability(votes, lengths=data.lengths).raters}
        names = sorted(skill)
        rank = stats.spearmanr([skill[n] for n in names], [fitted[n] for n in names]).statistic
        assert rank > 0.6, (skill, fitted)
        assert min(skill, key=skill.get) == min(fitted, key=fitted.get) == "inverted"
    assert np.mean(ours) >= np.mean(theirs) > 0.8, (ours, theirs)
