"""IPO: a finite optimum, in both forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.errors import ConfigError
from accord.objectives.ipo import ipo_loss
from accord.objectives.pairs import PairLogps


def pair(chosen: float, rejected: float, n_chosen: float, n_rejected: float) -> PairLogps:
    columns = (chosen, rejected, 0.0, 0.0, n_chosen, n_rejected)
    return PairLogps(*(torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in columns))


@given(tau=st.floats(0.05, 2), rejected=st.floats(-9, 9))
@settings(max_examples=60, deadline=None)
def test_the_loss_is_zero_where_h_is_half_over_tau(tau: float, rejected: float) -> None:
    assert float(ipo_loss(pair(rejected + 1 / (2 * tau), rejected, 3, 5), beta=tau).loss.detach()) < 1e-18
    per_token = pair(3 * (rejected / 5 + 1 / (2 * tau)), rejected, 3, 5)
    assert float(ipo_loss(per_token, beta=tau, form="mean").loss.detach()) < 1e-18


@pytest.mark.parametrize("form", ["sum", "mean"])
def test_too_large_a_gap_is_pulled_back(form: str) -> None:
    far = pair(100.0, -100.0, 4, 4)
    loss = ipo_loss(far, beta=0.1, form=form).loss  # type: ignore[arg-type]
    assert float(torch.autograd.grad(loss, far.chosen_P)[0]) > 0


def test_the_forms_agree_on_answers_of_one_token_only() -> None:
    for n, same in ((1, True), (2, False)):
        forms = [float(ipo_loss(pair(1.0, -2.0, n, n), beta=0.1, form=f).loss) for f in ("sum", "mean")]  # type: ignore[arg-type]
        assert (forms[0] == forms[1]) is same


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown form 'token' of IPO: use sum \(the paper's\) or mean"):
        ipo_loss(pair(1, 0, 1, 1), beta=0.1, form="token")  # type: ignore[arg-type]
