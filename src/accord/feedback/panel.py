"""Simulated raters: many opinions, honest noise, and the faults that real raters have.

After AlpacaFarm (Dubois et al. 2023, arXiv 2305.14387), whose point is that one clean judge is too easy:
only a pool of raters who differ from each other and from themselves shows over-optimisation. Simplified:
a rater here is a weighting of measured traits rather than a prompted model, so that a panel runs in
microseconds and everything about it is known.

A rater compares the utilities of the two answers, leans to one side, and errs with logistic noise, which
makes her choices Bradley-Terry: with no lean, no lapses and `tie_width` 0,
P(left is chosen) = sigmoid((u_left - u_right) / noise).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from accord.errors import ConfigError

# How far beyond the tie a difference must go to be called "slightly", "clearly" and "much" better, in
# units of utility.
GRADES = (0.0, 1.5, 3.5)
STRENGTHS = np.arange(-3, 4)


@dataclass(frozen=True)
class SimulatedRater:
    """One rater. Utilities, biases and widths share one unit; see the module for the model.

    `weights` is what she values, by trait; `noise` the scale of the logistic error (0: none);
    `position_bias` her lean to the left answer; `lapse` the share of answers given without looking, uniform
    over all seven strengths; `tie_width` the difference below which she calls it a tie.
    """

    name: str
    weights: Mapping[str, float]
    noise: float = 1.0
    position_bias: float = 0.0
    lapse: float = 0.0
    tie_width: float = 0.0

    def __post_init__(self) -> None:
        if self.noise < 0 or self.tie_width < 0 or not 0 <= self.lapse <= 1:
            raise ConfigError(
                f"rater {self.name!r}: noise {self.noise}, tie_width {self.tie_width} and lapse {self.lapse} "
                "must not be negative, nor lapse above 1"
            )

    def judge(
        self, left: Mapping[str, float], right: Mapping[str, float], rng: np.random.Generator
    ) -> tuple[int, float]:
        """Compare two answers by their traits, as displayed.

        Returns the strength, from -3 (right much better) over 0 (tie) to 3 (left much better), and the
        seconds it took. Draws a fixed number of variates from `rng`, whatever the answers.
        """
        careless, slip, pace = rng.random(), rng.logistic(), rng.lognormal(0.0, 0.35)
        guess = int(rng.choice(STRENGTHS))
        gap = utility(self.weights, left) - utility(self.weights, right)
        if careless < self.lapse:
            return guess, 2.0 * pace
        felt = gap + self.position_bias + self.noise * slip
        return _grade(felt, self.tie_width), (6.0 + 14.0 * math.exp(-abs(gap))) * pace


def utility(weights: Mapping[str, float], traits: Mapping[str, float]) -> float:
    """The weighted sum of an answer's traits. Traits without a weight do not matter to this rater.

    Raises KeyError when a weighted trait was not measured.
    """
    return sum(weight * traits[trait] for trait, weight in weights.items())


def judgement_rng(rater: str, item_id: str, seed: int = 0) -> np.random.Generator:
    """The generator for one rater's judgement of one item.

    It depends on nothing else, so the order in which questions are asked changes no answer.
    """
    digest = hashlib.sha256(f"{seed}\x1f{rater}\x1f{item_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def make_panel(
    n: int,
    base_weights: Mapping[str, float],
    *,
    seed: int,
    spread: float = 0.3,
    noise: float = 0.9,
    prefix: str = "sim",
) -> tuple[SimulatedRater, ...]:
    """`n` raters around a common taste, named "sim-<seed>-01" and so on; other seeds, other people.

    Each weight is multiplied by its own log-normal factor of median 1 and scale `spread`, so raters differ
    in how much they care but not in the direction. Each rater's noise varies about `noise` by a sixth or so;
    leans to a side are small and have either sign; about one answer in thirty is careless.
    Raises ConfigError for n < 1 or for a prefix that could be taken for a person's name.
    """
    if n < 1:
        raise ConfigError(f"a panel needs at least one rater, got {n}")
    if prefix.split("-")[0] != "sim":
        raise ConfigError(f"panel prefix {prefix!r} must be 'sim' or start with 'sim-': raters are simulated")
    rng = np.random.default_rng([seed, 0x5117])
    return tuple(
        SimulatedRater(
            name=f"{prefix}-{seed}-{i + 1:02d}",
            weights={k: w * float(rng.lognormal(0.0, spread)) for k, w in base_weights.items()},
            noise=noise * float(rng.lognormal(0.0, 0.15)),
            position_bias=float(rng.normal(0.0, 0.2)),
            lapse=float(rng.beta(1.0, 29.0)),
            tie_width=float(rng.uniform(0.1, 0.4)),
        )
        for i in range(n)
    )


def _grade(felt: float, tie_width: float) -> int:
    """The strength for a felt difference: 0 inside the tie, then one grade for each threshold passed."""
    beyond = abs(felt) - tie_width
    grade = sum(beyond > threshold for threshold in GRADES)
    return int(math.copysign(grade, felt))
