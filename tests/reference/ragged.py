"""Random ragged batches for the oracles: rows for them, padded float64 tensors for the package."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """C rows scattered over a (C, T) grid: real tokens anywhere, garbage everywhere else."""

    mask: np.ndarray
    garbage: float  # NaN, or a number that a forgotten mask would add in
    rng: np.random.Generator

    @property
    def mask_CT(self) -> Tensor:
        return torch.from_numpy(self.mask.copy())

    def rows(self, scale: float = 1.0) -> list[list[float]]:
        return [list(self.rng.normal(0, scale, size=int(n))) for n in self.mask.sum(axis=1)]

    def logps(self) -> list[list[float]]:
        return [[-abs(x) for x in row] for row in self.rows()]

    def near(self, rows: list[list[float]], scale: float) -> list[list[float]]:
        return [[x + scale * self.rng.normal() for x in row] for row in rows]

    def tensor(self, rows: list[list[float]], elsewhere: float | None = None) -> Tensor:
        """The rows on the grid; `elsewhere` stands where nothing does, garbage unless given."""
        out = np.full(self.mask.shape, self.garbage if elsewhere is None else elsewhere)
        for c, row in enumerate(rows):
            out[c, np.flatnonzero(self.mask[c])] = row
        return torch.from_numpy(out)


@st.composite
def ragged(draw: st.DrawFn) -> Ragged:
    """Right-padded, left-padded and holed masks alike; every completion has at least one real token."""
    completions, length = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = np.zeros((completions, length), dtype=bool)
    style = draw(st.sampled_from(["right", "left", "holes"]))
    for c in range(completions):
        real = int(rng.integers(1, length + 1))
        spots = rng.permutation(length)[:real] if style == "holes" else np.arange(real)
        mask[c, length - 1 - spots if style == "left" else spots] = True
    return Ragged(mask, draw(st.sampled_from([np.nan, -7.25])), rng)
