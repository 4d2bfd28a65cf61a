"""One label a pair: whose word it is, what it weighs, and that a reward model learns more from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize
from scipy.special import expit

from accord.errors import DataError
from accord.feedback.labels import aggregate_preferences, pair_labels
from accord.records import Judgement, Preference, Prompt
from planted import _judge as judge
from planted import panel, simulate

FAULTS = ("careless", "left", "long", "inverted")


def judged(rater: str, strength: int, item: str = "i0", ids: tuple[str, str] = ("a", "b")) -> Judgement:
    return Judgement(f"{item}-{rater}", item, rater, "human", "p", ids, strength, (0, 1), "g", 2.0)


def test_the_majority_names_the_winner_each_rater_once() -> None:
    votes = [judged("x", 3), judged("y", 1), judged("z", -2)]
    (label,) = pair_labels(votes, "majority").pairs
    assert (label.p_first, label.margin, label.weight) == (1.0, pytest.approx(2 / 3), 1.0)
    assert label.judgement_ids == ("i0-x", "i0-y", "i0-z")
    # the same answers the other way round in another question are the same pair
    turned = [replace(v, completion_ids=("b", "a"), strength=-v.strength) for v in votes]
    assert pair_labels(turned, "majority").pairs[0].p_first == 1.0
    # z says it twice: it still counts once
    again = [*votes[1:], judged("z", -3, item="i1")]
    assert pair_labels(again, "majority").pairs[0].tie


def test_a_tie_is_a_tie() -> None:
    (label,) = pair_labels([judged("x", 2), judged("y", -2)], "majority").pairs
    assert label.tie and label.margin == 0.0


def test_without_shared_pairs_the_majority_stands_in_and_it_says_so() -> None:
    found = pair_labels([judged("x", 2), judged("y", -1, "i1", ("c", "d"))], "reliability")
    assert found.how == "majority" and "no pair was judged by two raters" in found.note
    assert [label.p_first for label in found.pairs] == [1.0, 0.0]


def test_nothing_gives_no_labels() -> None:
    with pytest.raises(DataError, match="no judgements"):
        pair_labels([], "majority")


def test_a_preference_names_every_judgement_behind_it() -> None:
    data = simulate(3, n_pairs=40, overlap=3)
    prompts = {j.item_id: Prompt.of(j.item_id) for j in data.judgements}
    said = []
    for j in data.judgements:
        better, worse = j.completion_ids if j.strength >= 0 else j.completion_ids[::-1]
        row = Preference(prompts[j.item_id], f"text {better}", f"text {worse}", float(abs(j.strength)))
        said.append(replace(row, provenance=(j.id,), tie=j.strength == 0))
    rows, note = aggregate_preferences(said, data.judgements, "reliability")
    assert len(rows) == 40 and note == ""
    assert sorted(i for row in rows for i in row.provenance) == sorted(j.id for j in data.judgements)
    labels = {
        label.judgement_ids: label
        for label in pair_labels(
            data.judgements, "reliability", lengths={c: float(len(f"text {c}")) for c in data.lengths}
        ).pairs
    }
    for row in rows:
        label = labels[row.provenance]
        first_won = label.p_first >= 0.5
        assert row.chosen == f"text {label.first if first_won else label.second}"
        assert row.weight == pytest.approx(abs(2 * label.p_first - 1)) and row.margin >= 0


# ------------------------------------------------------------------- what a reward model learns from it


World = tuple[np.ndarray, list[Judgement], dict[str, float], np.ndarray]


def world(seed: int, n_pairs: int = 200, dim: int = 12) -> World:
    """Differences of features (I, D), judgements by 3 of 12 raters of whom four are faulty, lengths, and the
    true direction w (D)."""
    rng = np.random.default_rng([seed, 9])
    w_D = rng.normal(size=dim)
    w_D /= np.linalg.norm(w_D)
    raters = panel(seed, FAULTS, 12)
    x_ID, judgements, lengths = np.zeros((n_pairs, dim)), [], {}
    for i in range(n_pairs):
        ids = f"p{i:05d}a", f"p{i:05d}b"
        features, log_length = rng.normal(size=(2, dim)), rng.normal(5, 0.5, 2)
        lengths.update(zip(ids, np.exp(log_length).tolist(), strict=True))
        traits = [
            {"quality": float(f @ w_D), "length": float(length)}
            for f, length in zip(features, log_length, strict=True)
        ]
        for name in sorted(map(str, rng.choice(list(raters), 3, replace=False))):
            shown = tuple(int(s) for s in rng.permutation(2))
            judgements.append(judge(name, raters, ids, traits, shown, f"i{i:05d}", seed))
        x_ID[i] = features[0] - features[1]
    return x_ID, judgements, lengths, w_D


def fitted_accuracy(x_ND: np.ndarray, label_N: np.ndarray, weight_N: np.ndarray, w_D: np.ndarray) -> float:
    """Of a linear Bradley-Terry reward model: the angle to the truth, as its accuracy on fresh pairs."""

    def loss(b_D: np.ndarray) -> float:
        z_N = x_ND @ b_D
        nll_N = -label_N * np.log(expit(z_N) + 1e-12) - (1 - label_N) * np.log(expit(-z_N) + 1e-12)
        return float((weight_N * nll_N).sum() / weight_N.sum() + 0.01 * b_D @ b_D)

    b_D = optimize.minimize(loss, np.zeros(x_ND.shape[1]), method="L-BFGS-B").x
    cosine = float(b_D @ w_D / np.linalg.norm(b_D))
    return (
        1 - np.arccos(cosine) / np.pi
    )  # normal features: two directions disagree on angle / pi of all pairs


def test_reliable_labels_teach_more_than_raw_votes() -> None:
    """The error of the reward model falls by a fifth or more, averaged over six teams."""
    raw_error, label_error = [], []
    for seed in range(6):
        x_ID, judgements, lengths, w_D = world(seed)
        index = [int(j.completion_ids[0][1:6]) for j in judgements]
        won = np.array([(np.sign(j.strength) + 1) / 2 for j in judgements])
        raw_error.append(1 - fitted_accuracy(x_ID[index], won, np.ones(len(won)), w_D))
        labels = pair_labels(judgements, "reliability", lengths=lengths).pairs
        index = [int(label.first[1:6]) for label in labels]
        hard = np.array([float(label.p_first > 0.5) for label in labels])
        weight = np.array([label.weight for label in labels])
        label_error.append(1 - fitted_accuracy(x_ID[index], hard, weight, w_D))
    assert np.mean(label_error) < 0.8 * np.mean(raw_error), (raw_error, label_error)
