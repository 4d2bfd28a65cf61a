"""Raters with planted faults, for the tests of the statistics that must find them.

They are those of `feedback/panel.py`, not of the model that is tested: quality and length are traits,
noise is logistic, grades are far from evenly spaced, and a lapse shows in the time as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from accord.feedback.panel import SimulatedRater, judgement_rng
from accord.records import Judgement

FAULTS = ("careless", "left", "long", "inverted", "copy")


@dataclass(frozen=True)
class Planted:
    judgements: tuple[Judgement, ...]
    lengths: Mapping[str, float]  # by completion id
    quality: Mapping[str, float]  # of the first completion over the second, by "first|second"
    skill: Mapping[str, float]  # true share of right decided answers, by rater


def panel(seed: int, faults: Sequence[str] = FAULTS, n: int = 12) -> dict[str, SimulatedRater]:
    """Good raters of varied noise, and one rater per fault, named after it. "copy" is made from rater 0."""
    rng = np.random.default_rng([seed, 1])
    usual = {"quality": 2.0, "length": 0.15}
    known = {
        "careless": SimulatedRater("careless", usual, lapse=0.95, tie_width=0.3),
        "left": SimulatedRater("left", usual, position_bias=3.5, tie_width=0.3),
        "long": SimulatedRater("long", {"quality": 0.7, "length": 2.5}, tie_width=0.3),
        "inverted": SimulatedRater("inverted", {"quality": -2.0}, tie_width=0.3),
    }
    n_good = n - len(faults)
    good = [
        SimulatedRater(
            f"good{i}",
            usual,
            noise=float(noise),
            position_bias=float(rng.normal(0, 0.2)),
            lapse=float(rng.beta(1, 29)),
            tie_width=float(rng.uniform(0.1, 0.4)),
        )
        for i, noise in enumerate(np.exp(rng.permutation(np.linspace(np.log(0.5), np.log(3.0), n_good))))
    ]
    return {r.name: r for r in (*good, *(known[f] for f in faults if f != "copy"))}


def simulate(
    seed: int, *, n_pairs: int = 600, overlap: int = 3, faults: Sequence[str] = FAULTS, n: int = 12
) -> Planted:
    """`n_pairs` pairs, each judged by `overlap` of `n` raters, sides at random."""
    rng = np.random.default_rng([seed, 2])
    raters = panel(seed, faults, n)
    names = [*raters, *(["copy"] if "copy" in faults else [])]
    judgements, lengths, quality = [], {}, {}
    for i in range(n_pairs):
        ids = f"p{i:05d}a", f"p{i:05d}b"
        q, log_length = rng.normal(0, 1, 2), rng.normal(5, 0.5, 2)
        lengths.update(zip(ids, np.exp(log_length).tolist(), strict=True))
        quality[f"{ids[0]}|{ids[1]}"] = float(q[0] - q[1])
        traits = [{"quality": float(a), "length": float(b)} for a, b in zip(q, log_length, strict=True)]
        for name in sorted(map(str, rng.choice(names, overlap, replace=False))):
            shown = tuple(int(s) for s in rng.permutation(2))
            judgements.append(_judge(name, raters, ids, traits, shown, f"i{i:05d}", seed))
    skill = {name: _skill(name, raters, seed) for name in names}
    return Planted(tuple(judgements), lengths, quality, skill)


def _judge(name, raters, ids, traits, shown, item, seed) -> Judgement:
    """The copy-cat gives the answer of rater good0, to the letter."""
    source = "good0" if name == "copy" else name
    rater = raters[source]
    rng = judgement_rng(source, item, seed)
    seen = shown
    if source == "good0":  # what she would say on one fixed side, so that the copy is the same in both frames
        seen = (0, 1)
    strength, seconds = rater.judge(traits[seen[0]], traits[seen[1]], rng)
    return Judgement(
        id=f"{item}-{name}",
        item_id=item,
        rater=name,
        rater_kind="simulated",
        prompt_id=item,
        completion_ids=ids,
        strength=strength if seen[0] == 0 else -strength,
        shown=shown,
        guideline="g",
        seconds=seconds,
    )


def _skill(name, raters, seed, n: int = 4000) -> float:
    """Share of right answers among the decided ones, on many fresh pairs."""
    rater = raters["good0" if name == "copy" else name]
    rng = np.random.default_rng([seed, 3])
    right = decided = 0
    for _ in range(n):
        q, length = rng.normal(0, 1, 2), rng.normal(5, 0.5, 2)
        left, other = ({"quality": float(a), "length": float(b)} for a, b in zip(q, length, strict=True))
        strength, _ = rater.judge(left, other, rng)
        decided += strength != 0
        right += strength * (q[0] - q[1]) > 0
    return right / decided
