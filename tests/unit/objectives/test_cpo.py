"""CPO: DPO against a reference that thinks all answers equally likely."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from accord.objectives.cpo import cpo_loss
from accord.objectives.dpo import cdpo_loss
from accord.objectives.pairs import PairLogps

LOGP = st.floats(-30, -0.1)


@given(chosen=LOGP, rejected=LOGP, epsilon=st.floats(0, 0.4), level=LOGP)
@settings(max_examples=60, deadline=None)
def test_cpo_is_cdpo_with_a_uniform_reference(
    chosen: float, rejected: float, epsilon: float, level: float
) -> None:
    columns = (chosen, rejected, -3.0, -8.0, 2.0, 5.0)
    pairs = PairLogps(*(torch.tensor([x], dtype=torch.float64) for x in columns))
    uniform_P = torch.full((1,), level, dtype=torch.float64)
    level_pairs = replace(pairs, ref_chosen_P=uniform_P, ref_rejected_P=uniform_P)
    own = {"beta": 0.3, "label_smoothing": epsilon}
    assert_close(cpo_loss(pairs, **own).loss, cdpo_loss(level_pairs, **own).loss)
